"""Fault cases, counted: a case is many runs, each of which may fail by itself."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

Run = tuple[str, Callable[[], None]]
"""What is done to it, and doing it; it raises where the promise does not hold."""


@dataclass
class Outcome:
    """How many runs a case had, and which failed."""

    runs: int = 0
    failures: list[str] = field(default_factory=list)


def outcome_of(case: Callable[[Any], Iterator[Run]], world: Any) -> Outcome:
    """Every run of a case in `world`."""
    outcome = Outcome()
    for name, run in case(world):
        outcome.runs += 1
        try:
            run()
        except Exception:
            outcome.failures.append(f"{name}: {traceback.format_exc(limit=-3)}")
    return outcome


def table(outcomes: dict[str, Outcome]) -> str:
    """As Markdown: case, runs, failures."""
    rows = [(case.replace("_", " "), outcome.runs, len(outcome.failures)) for case, outcome in outcomes.items()]
    rows.append(("all", sum(runs for _, runs, _ in rows), sum(failures for _, _, failures in rows)))
    lines = ["| case | runs | failures |", "| --- | --- | --- |"]
    return "\n".join([*lines, *(f"| {case} | {runs} | {failures} |" for case, runs, failures in rows)]) + "\n"
