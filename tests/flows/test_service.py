"""The service as a user runs it: a folder is dropped, one onboarding is published; the same again starts nothing."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
import requests
from fixtures.service import HTTP, Service, served
from fixtures.tiny import make_model, write_base
from fixtures.workspace import amoeba, make_workspace

TARGET = "x86_avx2"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("made") / "tiny-base", make_model(layers=4))


@pytest.fixture(scope="module")
def dropped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dropped")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, dropped: Path) -> Path:
    made = make_workspace(tmp_path_factory.mktemp("service") / "workspace")
    added = amoeba(made, "bases", "add", str(dropped), "--profile", "tiny", "--target", TARGET)
    assert added.returncode == 0, added.stderr
    return made


@pytest.fixture(scope="module")
def service(workspace: Path) -> Iterator[Service]:
    with served(workspace, "--every", "1") as running:
        yield running


def versions(workspace: Path) -> list[tuple[str, int]]:
    """Every version that is registered, but for records of promotions."""
    with contextlib.closing(sqlite3.connect(workspace / ".amoeba" / "mlflow.db")) as database:
        found = database.execute("SELECT name, version FROM model_versions ORDER BY name, version").fetchall()
    return [(name, number) for name, number in found if "~" not in name]


@pytest.fixture(scope="module")
def onboarded(service: Service, base: Path, dropped: Path) -> None:
    shutil.copytree(base, dropped / "tiny-base")
    assert service.ended("arrive", 1) == ["Completed"], service.log.read_text()


def test_a_dropped_folder_becomes_one_published_onboarding(service: Service, workspace: Path, onboarded: None) -> None:
    assert [run["state_name"] for run in service.runs("onboard")] == ["Completed"]
    assert versions(workspace) == [("tiny-base", 1), (f"tiny-base--{TARGET}", 1)]


def test_the_same_base_again_starts_nothing_however_it_comes(
    service: Service, workspace: Path, base: Path, dropped: Path, onboarded: None
) -> None:
    shutil.copytree(base, dropped / "a-copy")
    event = {
        "occurred": datetime.now(UTC).isoformat(),
        "event": "amoeba.base.arrived",
        "resource": {"prefect.resource.id": "a-lab"},
        "payload": {"source": str(base), "profile": "tiny", "targets": [TARGET]},
        "id": str(uuid4()),
    }
    assert service.ended("arrive", 2) == ["Completed"] * 2
    HTTP.post(f"{service.api}/events", json=[event], timeout=60).raise_for_status()
    assert service.ended("arrive", 3) == ["Completed"] * 3
    assert [run["parameters"]["targets"] for run in service.runs("arrive")] == [[TARGET]] * 3
    assert service.log.read_text().count("is onboarded already, as tiny-base") == 2
    assert len(service.runs("onboard")) == 1
    assert versions(workspace) == [("tiny-base", 1), (f"tiny-base--{TARGET}", 1)]


def test_a_second_service_of_the_same_workspace_is_refused(service: Service, workspace: Path) -> None:
    refused = amoeba(workspace, "serve")
    assert (refused.returncode, "this workspace is served by another process already" in refused.stderr) == (2, True)


def test_its_server_does_nothing_for_another_user_of_the_machine(service: Service, workspace: Path) -> None:
    password, _, address = service.api.removeprefix("http://").partition("@")
    assert requests.get(f"http://{address}/health", timeout=60).ok
    for stranger in ("http://", "http://amoeba:guessed@"):
        for asked in ("deployments/filter", "flow_runs/filter", "events"):
            assert requests.post(f"{stranger}{address}/{asked}", json={}, timeout=60).status_code == 401
    kept = workspace / ".amoeba" / "prefect" / "password"
    assert (kept.read_text(), stat.S_IMODE(kept.stat().st_mode)) == (password, 0o600)


def test_a_service_that_stops_takes_its_server_along(service: Service, onboarded: None) -> None:
    assert service.stop() == 0, service.log.read_text()
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{service.api}/health", timeout=5)
