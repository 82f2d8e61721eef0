"""What MLflow's users may do, asked of MLflow itself as deploy/ starts it."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from fixtures import deployment as running
from fixtures.deployment import Deployment, new_secrets
from fixtures.workspace import PROJECT

API = "/api/2.0/mlflow"
TRAIL = {"name": "tiny--x86~promotions"}


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    made = Deployment(tmp_path_factory.mktemp("users") / "deployment")
    with contextlib.ExitStack() as stack:
        stack.enter_context(running.databases(made))
        stack.enter_context(running.mlflow(made))
        yield made


@pytest.mark.parametrize(
    ("method", "path", "given"),
    [
        ("POST", f"{API}/registered-models/create", TRAIL),
        ("POST", f"/ajax-{API[1:]}/registered-models/create", TRAIL),
        ("POST", f"{API}/experiments/create", {"name": "amoeba"}),
        ("PUT", "/api/2.0/mlflow-artifacts/artifacts/1/x", {}),
        ("PATCH", f"{API}/users/update-password", {"username": "device", "password": "another-password"}),
    ],
)
def test_a_device_makes_nothing_that_it_would_own_and_changes_no_password(
    deployment: Deployment, method: str, path: str, given: dict[str, str]
) -> None:
    assert _asked(deployment, "device", method, path, given).status_code == 403


def test_a_device_reads_what_a_builder_makes(deployment: Deployment) -> None:
    assert _asked(deployment, "builder", "POST", f"{API}/registered-models/create", TRAIL).ok
    found = _asked(deployment, "device", "GET", f"{API}/registered-models/search").json()
    assert [model["name"] for model in found["registered_models"]] == [TRAIL["name"]]
    for kind in ("experiments", "runs"):
        asked = {"experiment_ids": ["0"], "max_results": 1}
        assert _asked(deployment, "device", "POST", f"{API}/{kind}/search", asked).ok


def test_an_administrator_changes_the_password_as_the_document_says(deployment: Deployment) -> None:
    document = (PROJECT / "docs" / "deploy.md").read_text()
    path, body = re.findall(r"curl --user admin --request PATCH https://HOST(\S+) --json '(.*?)'", document)[0]
    old, new = deployment.given["MLFLOW_ADMIN_PASSWORD"], new_secrets()["MLFLOW_ADMIN_PASSWORD"]
    given = json.loads(body.replace("OLD", old).replace("NEW", new))
    assert _asked(deployment, "admin", "PATCH", path, given).status_code == 200
    deployment.given["MLFLOW_ADMIN_PASSWORD"] = new
    deployment.run("mlflow-users")


def _asked(deployment: Deployment, user: str, method: str, path: str, given: Any = None) -> requests.Response:
    password = deployment.given[f"MLFLOW_{user.upper()}_PASSWORD"]
    address = deployment.address("mlflow") + path
    return requests.request(method, address, auth=(user, password), json=given, timeout=30)
