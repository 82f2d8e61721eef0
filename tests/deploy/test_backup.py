"""Backups of deploy/, made and restored with its own commands: what was lost is pulled and verified again."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fixtures import deployment as running
from fixtures.artifacts import FILES, write_artifact
from fixtures.deployment import Deployment

from registry.naming import package_model
from registry.store import Store

RESTORE = [sys.executable, str(running.DEPLOY / "backup" / "restore.py")]
_MIGRATION = "CREATE TABLE since (run varchar(32) REFERENCES runs (run_uuid)); CREATE TABLE since_alone (number int)"
_SINCE = "SELECT tablename FROM pg_tables WHERE tablename LIKE 'since%'"
_RIGHTS = "SELECT datname, pg_get_userbyid(datdba), datacl FROM pg_database ORDER BY datname"


def test_a_backup_brings_everything_back_to_machines_that_have_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = Deployment(tmp_path / "old")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "builder")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", old.given["MLFLOW_BUILDER_PASSWORD"])
    model = package_model("tiny", "x86")
    with contextlib.ExitStack() as stack:
        lives = running.store_of_another_kind(old), running.databases(old), running.store(old)
        place: dict[str, str] = running.together(stack, *lives)[0]
        with running.mlflow(old):
            made = write_artifact(tmp_path / "made", "tiny", "x86", dict(FILES))
            Store(old.address("mlflow")).publish(tmp_path / "made", made, registered_model=model)
        old.run("prefect", command=_psql("CREATE EXTENSION pg_trgm; CREATE TABLE run AS SELECT 7 AS number"))
        assert not _is_backed_up(old)
        first = json.loads(old.run("backup", command=_once(old)))
        assert first["objects_copied"]["artifacts"] == len(FILES) + 1
        again = json.loads(old.run("backup", command=[*_once(old), "--keep=1"]))
        assert again["objects_copied"] == {"artifacts": 0, "dvc": 0}
        assert _is_backed_up(old)
        assert old.run("backup", command=[*RESTORE, "--list"]).split() == [again["stamp"]]

        new = Deployment(tmp_path / "new", given=dict(old.given))
        running.together(stack, running.databases(new), running.store(new))
        assert "there is no whole backup 1999" in _refusal(new, [*RESTORE, "1999"])
        first_rights = new.run("postgres", command=_psql(_RIGHTS, "postgres"), PGHOST=str(new.socket))
        done = json.loads(new.run("backup", command=[*RESTORE, "latest"], **place))
        assert done["objects_copied"] == first["objects_copied"]
        new.run("mlflow", command=_psql(_MIGRATION, "mlflow"))
        with _used(new):
            assert "is being accessed by other users" in _refusal(new, [*RESTORE, "latest"])
        assert new.run("mlflow", command=_psql(_SINCE, "mlflow")).split() == ["since", "since_alone"]
        twice = json.loads(new.run("backup", command=[*RESTORE, "latest"]))
        assert twice["objects_copied"] == {"artifacts": 0, "dvc": 0}
        assert new.run("mlflow", command=_psql(_SINCE, "mlflow")).strip() == ""
        assert new.run("prefect", command=_psql("SELECT number FROM run")).strip() == "7"
        assert new.run("postgres", command=_psql(_RIGHTS, "postgres"), PGHOST=str(new.socket)) == first_rights
        with running.mlflow(new):
            Store(new.address("mlflow")).pull(model, tmp_path / "pulled")
        for name, content in FILES.items():
            assert (tmp_path / "pulled" / name).read_bytes() == content

        _damage(new, again["stamp"], "prefect.dump")
        new.run("mlflow", command=_psql("UPDATE registered_models SET description = 'since'", "mlflow"))
        assert "prefect.dump of" in _refusal(new, [*RESTORE, "latest"])
        since = new.run("mlflow", command=_psql("SELECT description FROM registered_models", "mlflow"))
        assert set(since.split()) == {"since"}
        assert new.run("prefect", command=_psql("SELECT number FROM run")).strip() == "7"


@pytest.fixture
def backup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """deploy/backup/backup.py before one store for both sides, which has no bucket to copy yet, and a pg_dump of one line."""
    program = tmp_path / "programs" / "pg_dump"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho dumped > "${2#--file=}"\n')
    program.chmod(0o755)
    deployment = Deployment(tmp_path / "deployment", database=tmp_path)
    with running.store_of_another_kind(deployment) as place:
        for name, value in deployment.environment("backup").items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_ENDPOINT_URL", place["BACKUP_ENDPOINT_URL"])
        monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.syspath_prepend(running.DEPLOY / "backup")
        module = importlib.import_module("backup")
        monkeypatch.setattr(module, "STAMP", "%Y%m%dT%H%M%S.%fZ")
        yield module


def test_what_failed_backups_left_the_next_one_removes(backup: ModuleType) -> None:
    for _ in range(3):
        with pytest.raises(Exception, match="NoSuchBucket"):
            backup.back_up(keep=14)
        assert len(_stamps(backup)) == 1
    _make_buckets(backup)
    made = [backup.back_up(keep=2)["stamp"] for _ in range(3)]
    assert _stamps(backup) == set(made[1:])


def test_a_backup_of_the_day_before_yesterday_is_no_new_one(backup: ModuleType) -> None:
    client, bucket = backup.stores.elsewhere()
    for hours, healthy in ((31, False), (29, True)):
        began = (datetime.now(UTC) - timedelta(hours=hours)).strftime(backup.STAMP)
        for file in ("backup.json", *(f"{database}.dump" for database in backup.stores.DATABASES)):
            client.put_object(Bucket=bucket, Key=f"dumps/{began}/{file}", Body=b"{}")
        assert backup.whole(client, bucket)[-1] == began
        assert backup.is_newer_than(30) is healthy


def test_a_backup_whose_dumps_another_one_removed_does_not_count(
    backup: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    _make_buckets(backup)
    synchronise, other = backup.stores.synchronise, []

    def meanwhile(*places: Any, **how: Any) -> Any:
        monkeypatch.setattr(backup.stores, "synchronise", synchronise)
        other.append(backup.back_up(keep=14)["stamp"])
        return synchronise(*places, **how)

    monkeypatch.setattr(backup.stores, "synchronise", meanwhile)
    with pytest.raises(RuntimeError, match="another backup began meanwhile"):
        backup.back_up(keep=14)
    assert backup.whole(*backup.stores.elsewhere()) == other


def test_an_object_that_the_store_no_longer_gives_is_told_and_costs_no_other_and_no_database(
    backup: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    _make_buckets(backup)
    for key in ("lost", "whole"):
        backup.stores.own().put_object(Bucket="artifacts", Key=key, Body=b"bytes")
    ordinary = backup.stores.copy

    def copy(source: Any, of: tuple[str, str], target: Any, to: tuple[str, str]) -> None:
        if of[1] == "lost":
            raise OSError("a disk has failed")
        ordinary(source, of, target, to)

    monkeypatch.setattr(backup.stores, "copy", copy)
    record = backup.back_up(keep=14)
    assert record["objects_copied"] == {"artifacts": 1, "dvc": 0}
    assert record["objects_failed"] == ["artifacts/lost: a disk has failed"]
    assert backup.whole(*backup.stores.elsewhere()) == [record["stamp"]]
    assert not backup.is_newer_than(30)
    monkeypatch.setattr(backup.stores, "copy", ordinary)
    assert backup.back_up(keep=14)["objects_failed"] == []
    assert backup.is_newer_than(30)


def test_a_store_that_gives_nothing_makes_no_backup(backup: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    _make_buckets(backup)
    for number in range(30):
        backup.stores.own().put_object(Bucket="artifacts", Key=str(number), Body=b"bytes")

    def copy(*_: Any) -> None:
        raise OSError("no route to the store")

    monkeypatch.setattr(backup.stores, "copy", copy)
    with pytest.raises(OSError, match="no route"):
        backup.back_up(keep=14)
    assert backup.whole(*backup.stores.elsewhere()) == []


def _make_buckets(backup: ModuleType) -> None:
    for name in backup.stores.BUCKETS:
        backup.stores.own().create_bucket(Bucket=name)


def _stamps(backup: ModuleType) -> set[str]:
    """Of every backup that there is something of."""
    listed = backup.stores.listed(*backup.stores.elsewhere(), "dumps/")
    return {entry.key.partition("/")[0] for entry in listed}


def _once(deployment: Deployment) -> list[str]:
    """The compose file's own command, once."""
    return [word for word in deployment.command("backup") if not word.startswith("--every-hours")]


def _is_backed_up(deployment: Deployment) -> bool:
    """As the compose file's health check asks."""
    asked = running.compose()["services"]["backup"]["healthcheck"]["test"][-1]
    command = [*_once(deployment)[:2], asked]
    return subprocess.run(command, env=deployment.process_environment("backup"), check=False).returncode == 0


def _refusal(deployment: Deployment, command: list[str]) -> str:
    environment = deployment.process_environment("backup")
    done: Any = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    return str(done.stderr)


def _psql(statement: str, database: str = "prefect") -> list[str]:
    return [
        "psql",
        "--quiet",
        "--tuples-only",
        f"--username={database}",
        f"--dbname={database}",
        f"--command={statement}",
    ]


@contextlib.contextmanager
def _used(deployment: Deployment) -> Iterator[None]:
    """With somebody in the last database."""
    environment = deployment.process_environment("prefect")
    with subprocess.Popen(
        [*_psql("SELECT 1")[:-1]], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as user:
        assert user.stdin is not None
        assert user.stdout is not None
        user.stdin.write(b"SELECT 'here';\n")
        user.stdin.flush()
        assert b"here" in user.stdout.readline()
        yield


def _damage(deployment: Deployment, stamp: str, dump: str) -> None:
    source = f"import sys; sys.path.insert(0, {str(running.DEPLOY / 'backup')!r}); import stores\n"
    source += (
        f"client, bucket = stores.elsewhere(); client.put_object(Bucket=bucket, Key='dumps/{stamp}/{dump}', Body=b'x')"
    )
    deployment.run("backup", command=[sys.executable, "-c", source])
