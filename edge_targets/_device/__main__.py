"""Answer a prompt, or measure, with the package that this folder is in. Offline; results on standard output.

    python -m device run --prompt "What is gravity?"
    python -m device bench --out bench.json

The second one's file goes back to the registry with `amoeba measured bench.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
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


def main(arguments: list[str] | None = None) -> int:
    """Exit 0, or 2 with one line that says what was wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m device", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--package", type=Path, default=Path(__file__).resolve().parents[1], help=argparse.SUPPRESS)
    verbs = parser.add_subparsers(dest="verb", required=True)
    running = verbs.add_parser("run", help="answer one prompt")
    running.add_argument("--prompt", required=True)
    running.add_argument("--max-tokens", type=int, default=128)
    running.set_defaults(call=_run)
    measuring = verbs.add_parser("bench", help="measure latency and memory")
    measuring.add_argument("--runs", type=int, default=7)
    measuring.add_argument("--new-tokens", type=int, default=32)
    measuring.add_argument("--out", type=Path, help="a file for the figures; standard output when not given")
    measuring.set_defaults(call=_bench)
    for verb in (running, measuring):
        verb.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args(arguments)
    try:
        given.call(given)
    except ModuleNotFoundError as error:
        sys.stderr.write(f"error: the runtime is missing ({error.name}); package.json names it and its version\n")
        return 2
    except (facts.PackageError, ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
