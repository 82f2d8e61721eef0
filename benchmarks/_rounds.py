"""Rounds of one package against itself and against itself slowed, kept as they are taken; a run that was stopped goes on.

A program of its own, `python -m benchmarks._rounds`, since every process that it starts imports what the program imports.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from components.progress import progress
from edge_targets._device import facts
from edge_targets._turns import Run, apart, take_turns

SLOWER = (0, 5, 10)
"""How many percent what the package is held against is slower."""
Round = Sequence[tuple[Run, Run]]
"""For each of `SLOWER` a run of the package and one of what it is held against, which took turns."""


class Slowed:
    """A loaded package that waits after every step of the model, busily, for a share of the time that the step took."""

    def __init__(self, package: Path, threads: int, percent: int) -> None:
        self._runner, self._percent = facts.load(package, threads), percent

    def generate(self, tokens: Sequence[int], max_new_tokens: int, *, to_the_end: bool = False) -> Iterator[int]:
        steps = self._runner.generate(tokens, max_new_tokens, to_the_end=to_the_end)
        while True:
            started = time.perf_counter()
            token = next(steps, None)
            until = time.perf_counter() + (time.perf_counter() - started) * self._percent / 100
            while time.perf_counter() < until:
                pass
            if token is None:
                return
            yield token


def read(kept: Path) -> list[Round]:
    lines = kept.read_text().splitlines() if kept.is_file() else []
    return [[(Run(**older), Run(**newer)) for older, newer in json.loads(line)] for line in lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", type=Path, required=True)
    parser.add_argument("--kept", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--new-tokens", type=int, required=True)
    parser.add_argument("--runs", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    given = parser.parse_args()
    starts = {
        percent: partial(apart, given.package, given.threads, given.new_tokens, partial(Slowed, percent=percent))
        for percent in SLOWER
    }
    taken, advance = len(read(given.kept)), progress("rounds")
    while taken < given.rounds:
        by_percent = [take_turns([starts[0], starts[percent]], 2, given.runs) for percent in SLOWER]
        with given.kept.open("a") as file:
            for turn in range(2):
                pairs = [[asdict(side[turn]) for side in sides] for sides in by_percent]
                file.write(json.dumps(pairs) + "\n")
        taken += 2
        advance(min(given.rounds, taken), given.rounds)


if __name__ == "__main__":
    main()
