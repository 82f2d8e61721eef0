"""A publication that was killed goes on in its own run, and ends it."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows import tracking
from registry.store import Store

FACTS, PARAMETERS = {"base": "tiny"}, {"shape": "d4w75", "nested": {"steps": 6}}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    made = Store(f"sqlite:///{tmp_path / 'mlflow.db'}", str(tmp_path / "artifacts"))
    monkeypatch.setattr(tracking, "store", lambda: made)
    return made


def statuses(store: Store) -> list[str]:
    return [run.info.status for run in store.runs()]


def killed(store: Store, name: str = "package tiny") -> str:
    """A run whose process came no further."""
    with tracking.run(name, FACTS, PARAMETERS) as run:
        pass
    store.client().update_run(run.run_id, status="RUNNING")
    return run.run_id


def test_a_killed_run_goes_on_and_ends(store: Store) -> None:
    first = killed(store)
    assert statuses(store) == ["RUNNING"]
    with tracking.run("package tiny", FACTS, PARAMETERS) as run:
        assert run.run_id == first
    assert statuses(store) == ["FINISHED"]


def test_a_failed_run_goes_on_and_ends(store: Store) -> None:
    with pytest.raises(ValueError, match="away"), tracking.run("package tiny", FACTS, PARAMETERS):
        raise ValueError("away")
    assert statuses(store) == ["FAILED"]
    with tracking.run("package tiny", FACTS, PARAMETERS):
        assert statuses(store) == ["RUNNING"]
    assert statuses(store) == ["FINISHED"]


def test_a_run_that_ended_or_is_for_something_else_is_not_taken_up(store: Store) -> None:
    with tracking.run("package tiny", FACTS, PARAMETERS) as run:
        ended = run.run_id
    for name, facts, parameters in (
        ("package tiny", FACTS, PARAMETERS),
        ("package other", FACTS, PARAMETERS),
        ("package tiny", {"base": "other"}, PARAMETERS),
        ("package tiny", FACTS, {"shape": "d4w50"}),
    ):
        with tracking.run(name, facts, parameters) as run:
            assert run.run_id != ended
    assert statuses(store) == ["FINISHED"] * 5


def test_a_run_whose_work_turns_out_to_be_done_is_ended(store: Store) -> None:
    killed(store)
    other = killed(store, "package other")
    tracking.finish("package tiny", FACTS, PARAMETERS)
    assert sorted(statuses(store)) == ["FINISHED", "RUNNING"]
    assert store.client().get_run(other).info.status == "RUNNING"
