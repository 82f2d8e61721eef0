"""Where an onboarding's time goes: seconds of every step, in one workspace beside another.

    python -m benchmarks.steps ../before .

Each is a checkout in which `amoeba onboard` ran to its end with nothing made before; its first complete one counts. Times are those
that Prefect keeps of every task, so a checkout of any commit can be read. Builds of targets run beside each other.
"""

from __future__ import annotations

import argparse
import sqlite3
import sys
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from benchmarks import _record

WHOLE = "the whole run"
_COMPLETE = """
select flow_run.id, flow_run.start_time, flow_run.end_time from flow_run join flow on flow.id = flow_run.flow_id
where flow.name = 'onboard' and flow_run.state_type = 'COMPLETED' order by flow_run.start_time limit 1
"""
_TASKS = (
    "select name, start_time, end_time from task_run where flow_run_id = ? and end_time is not null order by start_time"
)


@dataclass(frozen=True)
class Split:
    """An onboarding's commit and its seconds by step, in the order in which steps began; the whole run's come last."""

    commit: str
    seconds: dict[str, float]


def split(checkout: Path) -> Split:
    """Read a checkout's first complete onboarding; raises LookupError where there is none."""
    database = checkout / ".amoeba" / "prefect" / "prefect.db"
    if not database.is_file():
        raise LookupError(f"{checkout} has no {database.relative_to(checkout)}; run `make onboard` there first")
    with closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)) as known:
        found = known.execute(_COMPLETE).fetchone()
        if found is None:
            raise LookupError(f"no onboarding in {checkout} is complete; run `make onboard` there first")
        run, *times = found
        tasks = known.execute(_TASKS, (run,)).fetchall()
    seconds: dict[str, float] = {}
    for name, *ends in (*tasks, (WHOLE, *times)):
        seconds[name] = seconds.get(name, 0) + _between(*ends)
    return Split(_record.commit_of(checkout), seconds)


def _between(start: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", nargs="+", type=Path, help="the older one first")
    try:
        splits = [split(checkout) for checkout in parser.parse_args().checkouts]
    except LookupError as error:
        sys.exit(str(error))
    steps = list(dict.fromkeys(step for one in splits[::-1] for step in one.seconds if step != WHOLE))
    rows = [
        [step, *(round(one.seconds[step]) if step in one.seconds else "" for one in splits)] for step in (*steps, WHOLE)
    ]
    _record.table(["step", *(f"s at {one.commit}" for one in splits)], rows)
    _record.keep("steps", {"splits": [asdict(one) for one in splits]})


if __name__ == "__main__":
    main()
