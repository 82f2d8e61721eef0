"""What deploy/compose.yaml describes, running here: bases are onboarded by two workers and pulled by a device."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from fixtures import deployment as running
from fixtures.deployment import Deployment
from fixtures.tiny import make_model, write_base
from fixtures.workspace import amoeba, make_workspace

TARGET = "x86_avx512"
BASES = ("first", "second")
_MOST_S = 1200
"""No speed is asked for: it only ends what hangs."""


@dataclass(frozen=True)
class Service:
    """The services, the certificate that the proxy shows, each worker's workspace, and the runs that were asked for."""

    deployment: Deployment
    authority: Path
    workspaces: dict[str, Path]
    runs: dict[str, dict[str, Any]]

    def url(self, name: str, path: str = "") -> str:
        return f"https://{self.deployment.given[name]}:{self.deployment.ports['https']}{path}"

    def of(self, user: str) -> dict[str, str]:
        """What one of MLflow's users sets, outside of the deployment."""
        return {
            "AMOEBA_MLFLOW_URI": self.url("AMOEBA_MLFLOW_HOST"),
            "MLFLOW_TRACKING_USERNAME": user,
            "MLFLOW_TRACKING_PASSWORD": self.deployment.given[f"MLFLOW_{user.upper()}_PASSWORD"],
            "REQUESTS_CA_BUNDLE": str(self.authority),
        }


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Everything up, and two bases onboarded at once by workers that share no folder."""
    folder = tmp_path_factory.mktemp("service")
    for seed, name in enumerate(BASES):
        (folder / name).mkdir()
        write_base(folder / name, make_model(seed=seed))
    project = make_workspace(folder / "project")
    deployment = Deployment(folder / "deployment")
    with contextlib.ExitStack() as stack:
        running.together(stack, running.databases(deployment), running.store(deployment))
        running.together(stack, running.prefect(deployment), running.mlflow(deployment))
        names = ("worker-1", "worker-2")
        authority, *made = running.together(
            stack, running.proxy(deployment), *(running.worker(deployment, name, project) for name in names)
        )
        workspaces = dict(zip(names, made, strict=True))
        runs = _onboarded(deployment, [str(folder / name) for name in BASES])
        yield Service(deployment, authority, workspaces, runs)


def test_two_bases_are_onboarded_at_once_each_by_a_worker_of_its_own(service: Service) -> None:
    assert {name: run["state"]["name"] for name, run in service.runs.items()} == dict.fromkeys(
        service.runs, "Completed"
    )
    began = {name: run["start_time"] for name, run in service.runs.items()}
    assert max(began.values()) < min(run["end_time"] for run in service.runs.values())
    for workspace in service.workspaces.values():
        assert len(list((workspace / "artifacts").iterdir())) == 1
        assert not (workspace / ".amoeba" / "mlflow.db").exists()


def test_what_a_worker_computed_is_in_the_store_for_the_others(service: Service) -> None:
    source = f"import sys; sys.path.insert(0, {str(running.DEPLOY / 'backup')!r}); import stores\n"
    source += "print(sum(1 for _ in stores.listed(stores.own(), 'dvc')))"
    stored = service.deployment.run("buckets", command=[sys.executable, "-c", source])
    assert int(stored) > 6
    for workspace in service.workspaces.values():
        assert not (workspace / ".amoeba" / "dvc-remote").exists()


def test_a_device_pulls_through_the_proxy_with_its_own_password_and_may_write_nothing(
    service: Service, tmp_path: Path
) -> None:
    told = service.of("device") | {"AMOEBA_CACHE": str(tmp_path / "cache")}
    pulled = amoeba(tmp_path, "pull", "first", TARGET, "--to", "model", "--json", **told)
    assert pulled.returncode == 0, pulled.stdout + pulled.stderr
    assert amoeba(tmp_path, "verify", "model").returncode == 0
    refused = amoeba(tmp_path, "promote", "first", TARGET, "--version", "1", "--to", "canary", **told)
    assert refused.returncode != 0
    stranger = told | {"MLFLOW_TRACKING_PASSWORD": "guessed"}
    assert amoeba(tmp_path, "pull", "first", TARGET, "--to", "other", **stranger).returncode != 0
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("host", "path", "expected"),
    [
        ("AMOEBA_MLFLOW_HOST", "/health", 200),
        ("AMOEBA_MLFLOW_HOST", "/", 401),
        ("AMOEBA_MLFLOW_HOST", "/metrics", 404),
        ("AMOEBA_MLFLOW_HOST", "/api/2.0/mlflow/registered-models/search", 401),
        ("AMOEBA_PREFECT_HOST", "/api/health", 200),
        ("AMOEBA_PREFECT_HOST", "/", 401),
        ("AMOEBA_PREFECT_HOST", "/api/admin/settings", 401),
    ],
)
def test_a_stranger_sees_nothing_but_that_it_lives(service: Service, host: str, path: str, expected: int) -> None:
    assert requests.get(service.url(host, path), verify=str(service.authority), timeout=30).status_code == expected


def test_whoever_has_the_password_of_runs_sees_them_and_one_that_is_wrong_sees_none(service: Service) -> None:
    name, _, password = service.deployment.given["PREFECT_AUTH_STRING"].partition(":")
    for path in ("/", "/api/admin/version"):
        address = service.url("AMOEBA_PREFECT_HOST", path)
        answers = [
            requests.get(address, auth=(name, given), verify=str(service.authority), timeout=30)
            for given in (password, "wrong")
        ]
        assert [answer.status_code for answer in answers] == [200, 401]
        assert answers[1].headers["WWW-Authenticate"].startswith("Basic")
        assert answers[0].headers["Strict-Transport-Security"]


def test_the_databases_ask_for_a_password(service: Service) -> None:
    environment = service.deployment.process_environment("mlflow") | {"PGPASSWORD": "wrong"}
    command = ["psql", "--username=mlflow", "--dbname=mlflow", "--command=SELECT 1"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "password authentication failed" in done.stderr


def _onboarded(deployment: Deployment, sources: list[str]) -> dict[str, dict[str, Any]]:
    """The deployments for the pool, a run of `onboard` for each source asked for at once, and how each ended."""
    asked = {"PREFECT_LOGGING_LEVEL": "WARNING", "AMOEBA_WORKSPACE": str(deployment.folder / "worker-1")}
    deployment.run("deployments", **asked)
    session = requests.Session()
    session.auth = tuple(deployment.given["PREFECT_AUTH_STRING"].split(":", 1))
    api = deployment.address("prefect") + "/api"
    found = session.get(f"{api}/deployments/name/onboard/main", timeout=30).json()
    runs = {}
    for source in sources:
        asked_for = {"parameters": {"source": source, "profile": "tiny", "targets": [TARGET]}}
        runs[source] = session.post(
            f"{api}/deployments/{found['id']}/create_flow_run", json=asked_for, timeout=30
        ).json()
    for _ in range(_MOST_S * 2):
        runs = {source: session.get(f"{api}/flow_runs/{run['id']}", timeout=30).json() for source, run in runs.items()}
        if all(run["state"]["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") for run in runs.values()):
            break
        time.sleep(0.5)
    for source, run in runs.items():
        logs = "\n".join(log.read_text() for log in deployment.folder.glob("worker-*.log"))
        assert run["state"]["type"] == "COMPLETED", f"{source}: {run['state']}\n{logs}"
    return runs
