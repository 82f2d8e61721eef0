"""Answer a prompt, or measure, with the package that this folder is in: offline, results on standard output.

`run.py` and `bench.py` in the package are these two verbs.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from . import facts
from .bench import FEWEST_RUNS, bench
from .machine import usable_cores
from .text import Text


class NoRoomError(ValueError):
    """A conversation that fills the package's context, so that an answer does not fit."""


class Answers:
    """A package that is talked to."""

    def __init__(self, folder: Path, threads: int) -> None:
        self._context_length: int = facts.read(folder)["context_length"]
        self._text, self._runner = Text(folder), facts.load(folder, threads)

    def to(self, messages: Sequence[Mapping[str, str]], max_tokens: int) -> Iterator[str]:
        """Pieces of the answer; raises NoRoomError where the context has no room for `max_tokens` of it.

        After one message, of which nothing can be forgotten, it is as long as the context allows.
        """
        tokens = self._text.chat(messages)
        room, wanted = self._context_length - len(tokens), 1 if len(messages) == 1 else max_tokens
        if room < wanted:
            raise NoRoomError(
                f"the conversation has {len(tokens)} tokens, and the package's context of {self._context_length} leaves no "
                f"room for an answer of {wanted}; say less, or begin a new one"
            )
        return self._text.stream(self._runner.generate(tokens, min(max_tokens, room)))


def _run(given: argparse.Namespace) -> None:
    answers = Answers(given.package, given.threads)
    for piece in answers.to([{"role": "user", "content": given.prompt}], given.max_tokens):
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")


def _bench(given: argparse.Namespace) -> None:
    def progress(done: int, total: int) -> None:
        sys.stderr.write(f"\rbench: {done}/{total}{chr(10) if done == total else ''}")
        sys.stderr.flush()

    if given.runs < FEWEST_RUNS:
        raise ValueError(f"got {given.runs} runs; a measurement has at least {FEWEST_RUNS}")
    runner = facts.load(given.package, given.threads)
    figures = bench(given.package, runner, given.threads, given.runs, given.new_tokens, progress)
    written = json.dumps(figures, indent=1) + "\n"
    if given.out is None:
        sys.stdout.write(written)
    else:
        given.out.write_text(written)


def run() -> int:
    """Answer one prompt; exit 0, or 2 with one line that says what was wrong."""
    parser = _parser('Answer one prompt with this package.  Example: python run.py --prompt "What is gravity?"')
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--max-tokens", type=int, default=128)
    return _call(_run, parser.parse_args())


def bench_here() -> int:
    """Measure latency and memory; exit as `run`."""
    parser = _parser("Measure this package on this machine.  Example: python bench.py --out bench.json")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument(
        "--out", type=Path, help="a file for the figures, which `amoeba measured` takes; standard output when not given"
    )
    return _call(_bench, parser.parse_args())


def _parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--package", type=Path, default=Path(__file__).resolve().parents[1], help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=usable_cores())
    return parser


def _missing(error: ModuleNotFoundError, package: Path) -> str:
    """Which module, and what brings it: of the runtime the package's own version."""
    module, runtime = str(error.name).split(".")[0], facts.read(package)["runtime"]
    wanted = f"{module}=={runtime.get('version')}" if module == runtime.get("name") else module
    return f"the module {module} is missing: pip install {wanted}"


def _call(verb: Callable[[argparse.Namespace], None], given: argparse.Namespace) -> int:
    if isinstance(sys.stdout, io.TextIOWrapper):  # an answer may be in any language, whatever the system's
        sys.stdout.reconfigure(encoding="utf-8")
    try:
        verb(given)
    except ModuleNotFoundError as error:
        sys.stderr.write(f"error: {_missing(error, given.package)}\n")
        return 2
    except (facts.PackageError, ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0
