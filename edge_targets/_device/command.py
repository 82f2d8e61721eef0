"""Answer a prompt, or measure, with the package that this folder is in: offline, results on standard output.

`run.py` and `bench.py` in the package are these two verbs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from . import facts
from .bench import bench
from .text import Text


def _run(given: argparse.Namespace) -> None:
    known, text = facts.read(given.package), Text(given.package)
    tokens = text.chat([{"role": "user", "content": given.prompt}])
    room = max(0, known["context_length"] - len(tokens))
    answer = facts.load(given.package, given.threads).generate(tokens, min(given.max_tokens, room))
    for piece in text.stream(answer):
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")


def _bench(given: argparse.Namespace) -> None:
    def progress(done: int, total: int) -> None:
        sys.stderr.write(f"\rbench: {done}/{total}{chr(10) if done == total else ''}")
        sys.stderr.flush()

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
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    return parser


def _call(verb: Callable[[argparse.Namespace], None], given: argparse.Namespace) -> int:
    try:
        verb(given)
    except ModuleNotFoundError as error:
        sys.stderr.write(f"error: the runtime is missing ({error.name}); package.json names it and its version\n")
        return 2
    except (facts.PackageError, ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0
