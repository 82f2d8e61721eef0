"""An onboarding's time is read from what Prefect kept of it."""

import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks.steps import WHOLE, split

TABLES = """
create table flow (id, name);
create table flow_run (id, flow_id, state_type, start_time, end_time);
create table task_run (flow_run_id, name, start_time, end_time);
insert into flow values ('f', 'onboard'), ('g', 'package');
insert into flow_run values
    ('killed', 'f', 'CRASHED', '2026-11-22 07:00:00.000000', '2026-11-22 07:01:00.000000'),
    ('other', 'g', 'COMPLETED', '2026-11-22 07:01:00.000000', '2026-11-22 07:02:00.000000'),
    ('first', 'f', 'COMPLETED', '2026-11-22 07:10:00.000000', '2026-11-22 07:13:30.500000'),
    ('again', 'f', 'COMPLETED', '2026-11-22 08:00:00.000000', '2026-11-22 08:00:02.000000');
insert into task_run values
    ('killed', 'data', '2026-11-22 07:00:00.000000', '2026-11-22 07:00:50.000000'),
    ('first', 'selection', '2026-11-22 07:11:00.000000', '2026-11-22 07:13:00.000000'),
    ('first', 'data', '2026-11-22 07:10:00.000000', '2026-11-22 07:10:20.250000'),
    ('first', 'push', '2026-11-22 07:13:00.000000', '2026-11-22 07:13:01.000000'),
    ('first', 'push', '2026-11-22 07:13:02.000000', '2026-11-22 07:13:04.000000'),
    ('first', 'show', '2026-11-22 07:13:05.000000', null);
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for command in (["init"], ["-c", "user.name=A", "-c", "user.email=a@b", "commit", "--allow-empty", "-m", "made"]):
        subprocess.run(["git", "-C", str(tmp_path), "-c", "init.defaultBranch=main", *command], check=True)
    return tmp_path


def test_the_first_complete_onboarding_counts_and_tries_of_a_step_add_up(checkout: Path) -> None:
    database = checkout / ".amoeba" / "prefect" / "prefect.db"
    database.parent.mkdir(parents=True)
    with closing(sqlite3.connect(database)) as made:
        made.executescript(TABLES)
    found = split(checkout)
    assert list(found.seconds.items()) == [("data", 20.25), ("selection", 120.0), ("push", 3.0), (WHOLE, 210.5)]
    assert found.commit


def test_a_checkout_without_one_is_told_what_to_run(checkout: Path) -> None:
    with pytest.raises(LookupError, match="run `make onboard` there first"):
        split(checkout)
