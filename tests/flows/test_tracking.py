"""MLflow runs of a registry that goes away while one is open."""

from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE
from mlflow.tracking import MlflowClient

from flows import tracking
from flows.retrying import may_pass
from flows.tracking import Run
from registry.errors import DamagedError, NoSpaceError, RegistryError, UnreachableError
from registry.reaching import reaching
from registry.store import Store

AWAY = "http://someone:hunter2@127.0.0.1:9"


def note_while_away(registry: Store, error: Exception | None = None) -> None:
    """Nothing answers any more once the run is open."""
    with tracking.run("work", {}, {}) as run:
        vars(registry)["mlflow"] = MlflowClient(tracking_uri=AWAY, registry_uri=AWAY)
        if error is not None:
            raise error
        run.metrics({"perplexity": 9.0})


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    opened = Store(f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(tracking, "store", lambda: opened)
    return opened


def test_what_a_run_cannot_note_since_the_registry_is_away_may_pass_and_shows_no_password(registry: Store) -> None:
    with pytest.raises(UnreachableError) as raised:
        note_while_away(registry)
    assert may_pass(raised.value)
    assert "hunter2" not in str(raised.value)


def test_a_locked_database_may_pass_and_a_full_disk_does_not() -> None:
    def told(said: str) -> Exception:
        with pytest.raises(RegistryError) as raised, reaching("sqlite:///mlflow.db"):
            raise MlflowException(f"(sqlite3.OperationalError) {said}", error_code=TEMPORARILY_UNAVAILABLE)
        return raised.value

    locked = told("database is locked")
    assert isinstance(locked, UnreachableError)
    assert may_pass(locked)
    assert "does not answer ((sqlite3.OperationalError) database is locked)" in str(locked)
    assert isinstance(told("database or disk is full"), NoSpaceError)


def test_what_went_wrong_is_told_where_its_run_cannot_be_ended_either(registry: Store) -> None:
    with pytest.raises(DamagedError, match="half a file"):
        note_while_away(registry, DamagedError("half a file"))


def test_a_run_that_failed_goes_on_and_ends(registry: Store) -> None:
    def status(run: Run) -> str:
        return str(registry.client().get_run(run.run_id).info.status)

    with pytest.raises(DamagedError), tracking.run("work", {}, {"steps": 1}) as first:
        raise DamagedError("half a file")
    assert status(first) == "FAILED"
    with tracking.run("work", {}, {"steps": 1}) as second:
        second.metrics({"perplexity": 9.0})
    assert second.run_id == first.run_id
    assert status(second) == "FINISHED"
