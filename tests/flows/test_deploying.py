"""Deployments given to work pools of a real Prefect server, and run by a worker of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
from fixtures.service import HTTP, prefect_server, served
from fixtures.workspace import PROJECT, amoeba, make_workspace
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, StateType
from prefect.events import Event, RelatedResource, Resource
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.lost_runs import LOST, end_lost_runs, end_silent_runs
from flows.serving import REFUSED

Deployed = dict[str, dict[str, Any]]
DEPLOYED = ["arrive/main", "look/main", "onboard/main", "package/main", "explore/main", "check/main"]

IMAGE = ("--image", "registry.example/edge:1.0")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_workspace(tmp_path_factory.mktemp("deploying") / "workspace")


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prefect server with a work pool of each kind, as Prefect itself describes them."""
    with prefect_server(tmp_path_factory.mktemp("prefect")) as address:
        for kind, template in _templates(address).items():
            pool = {"name": f"a-{kind}-pool", "type": kind, "base_job_template": template}
            HTTP.post(f"{address}/work_pools/", json=pool, timeout=60).raise_for_status()
        yield address


def _templates(api: str) -> dict[str, Any]:
    """The job template of each kind of worker, from the collection that comes with Prefect."""
    asked = HTTP.get(f"{api}/collections/views/aggregate-worker-metadata", timeout=60).json()
    kinds = {kind: facts for workers in asked.values() for kind, facts in workers.items()}
    return {kind: kinds[kind]["default_base_job_configuration"] for kind in ("process", "docker", "kubernetes")}


def deploy(workspace: Path, api: str, pool: str, *more: str) -> subprocess.CompletedProcess[str]:
    return amoeba(workspace, "deploy", "--pool", pool, "--json", *more, PREFECT_API_URL=api)


def deployment(api: str, name: str) -> dict[str, Any]:
    answer = HTTP.get(f"{api}/deployments/name/{name}", timeout=60)
    answer.raise_for_status()
    found: dict[str, Any] = answer.json()
    return found


@pytest.fixture(scope="module")
def deployed(workspace: Path, api: str) -> dict[str, dict[str, Any]]:
    """What the server had of each deployment when it was given to each kind of pool, the process pool at last."""
    found = {}
    for kind, more in {"docker": IMAGE, "kubernetes": IMAGE, "process": ()}.items():
        done = deploy(workspace, api, f"a-{kind}-pool", "--cron", "0 3 * * *", *more)
        assert done.returncode == 0, done.stderr
        found[kind] = {name: deployment(api, name) for name in json.loads(done.stdout)}
    return found


@pytest.mark.parametrize("kind", ["docker", "kubernetes", "process"])
def test_a_pool_takes_every_deployment(deployed: Deployed, kind: str) -> None:
    assert list(deployed[kind]) == DEPLOYED
    for name, made in deployed[kind].items():
        assert made["work_pool_name"] == f"a-{kind}-pool"
        assert made["job_variables"].get("image") == (None if kind == "process" else IMAGE[1])
        assert made["job_variables"]["env"]["MLFLOW_DISABLE_TELEMETRY"] == "true"
        crons = [schedule["schedule"]["cron"] for schedule in made["schedules"]]
        assert crons == (["0 3 * * *"] if name == "look/main" else [])
    assert deployed[kind]["arrive/main"]["entrypoint"] == "flows.arriving.arrive"


@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_prefect_holds_what_is_deployed_against_the_pool_s_job_template(
    deployed: Deployed, api: str, kind: str
) -> None:
    made = deployed[kind]["arrive/main"]

    def created(**changed: Any) -> int:
        copy = {name: made[name] for name in ("flow_id", "entrypoint", "work_pool_name")}
        copy |= {"name": f"copy-{kind}", "job_variables": {**made["job_variables"], **changed}}
        return HTTP.post(f"{api}/deployments/", json=copy, timeout=60).status_code

    assert created() == 201
    assert created(image=["not", "a", "name"]) == 422
    assert created(env="not a mapping") == 422


def run_in(api: str, state: StateType, *, beats: bool = False) -> str:
    """A run of a deployment that somebody else runs, in this state, of which Prefect's runner may have told once that it is there.

    Prefect's client asks a busy server again.
    """
    identifier = deployment(api, "check/main")["id"]
    with temporary_settings({PREFECT_API_URL: api}), get_client(sync_client=True) as client:
        run = client.create_flow_run_from_deployment(identifier, parameters={"model": "m"})
        client.set_flow_run_state(run.id, State(type=state), force=True)
        if beats:
            tag = RelatedResource({"prefect.resource.id": "prefect.tag.amoeba", "prefect.resource.role": "tag"})
            of_run = Resource({"prefect.resource.id": f"prefect.flow-run.{run.id}"})
            beat = Event(event="prefect.flow-run.heartbeat", resource=of_run, related=[tag])
            HTTP.post(f"{api}/events", json=[beat.model_dump(mode="json")], timeout=60).raise_for_status()
    return str(run.id)


def state_of(api: str, run: str) -> str:
    return str(HTTP.get(f"{api}/flow_runs/{run}", timeout=60).json()["state_type"])


def test_runs_that_ended_with_their_service_are_ended_and_no_others(deployed: Deployed, api: str) -> None:
    begun = (StateType.RUNNING, StateType.PENDING, StateType.SCHEDULED, StateType.COMPLETED)
    runs = {state.name: run_in(api, state) for state in begun}
    with temporary_settings({PREFECT_API_URL: api}):
        assert end_lost_runs() == 2
    ended = {state: state_of(api, made) for state, made in runs.items()}
    assert ended == {"RUNNING": "CRASHED", "PENDING": "CRASHED", "SCHEDULED": "SCHEDULED", "COMPLETED": "COMPLETED"}
    HTTP.delete(f"{api}/flow_runs/{runs['SCHEDULED']}", timeout=60).raise_for_status()


@pytest.mark.parametrize(
    ("pool", "more", "said"),
    [
        ("a-docker-pool", (), "--image names one that has this project installed"),
        ("a-process-pool", ("--image", "registry.example/edge:1.0"), "runs no containers; leave --image out"),
        ("nowhere", (), "no work pool is called 'nowhere'; `prefect work-pool create nowhere --type process`"),
    ],
)
def test_what_a_pool_cannot_take_is_said(
    workspace: Path, api: str, pool: str, more: tuple[str, ...], said: str
) -> None:
    refused = deploy(workspace, api, pool, *more)
    assert (refused.returncode, said in refused.stderr) == (2, True), refused.stderr


def test_without_a_server_there_is_no_pool(workspace: Path) -> None:
    refused = amoeba(workspace, "deploy", "--pool", "builders")
    assert (refused.returncode, "PREFECT_API_URL is not set" in refused.stderr) == (2, True)
    for verb in (("deploy", "--pool", "builders"), ("serve",)):
        refused = amoeba(workspace, *verb, PREFECT_API_URL="http://127.0.0.1:9/api")
        assert (refused.returncode, "127.0.0.1:9/api does not answer" in refused.stderr) == (2, True), refused.stderr


def test_a_worker_runs_a_deployment_in_its_own_workspace(
    deployed: Deployed, workspace: Path, api: str, tmp_path: Path
) -> None:
    asked = {"parameters": {"source": "smollm2-135n", "profile": "tiny"}, "state": {"type": "SCHEDULED"}}
    identifier = deployment(api, "arrive/main")["id"]
    run = HTTP.post(f"{api}/deployments/{identifier}/create_flow_run", json=asked, timeout=60).json()
    environment = {"PREFECT_API_URL": api, "AMOEBA_WORKSPACE": str(workspace), "PYTHONPATH": str(PROJECT)}
    worked = subprocess.run(
        [sys.executable, "-m", "prefect", "worker", "start", "--pool", "a-process-pool", "--run-once"],
        cwd=tmp_path,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    ended = HTTP.get(f"{api}/flow_runs/{run['id']}", timeout=60).json()["state"]
    assert (ended["type"], ended["name"]) == ("FAILED", "Refused"), worked.stderr
    assert "no base is called 'smollm2-135n'; did you mean smollm2-135m?" in ended["message"]


def test_runs_that_a_worker_lost_are_ended_by_the_server_and_no_others(deployed: Deployed, api: str) -> None:
    refused = State(type=StateType.FAILED, name=REFUSED, message="no base")
    with temporary_settings({PREFECT_API_URL: api}):
        end_silent_runs(silent=timedelta(seconds=10), to_begin=timedelta(seconds=10))  # the least that Prefect takes
        silent, refused_run = run_in(api, StateType.RUNNING, beats=True), run_in(api, StateType.RUNNING, beats=True)
        begun, waiting = run_in(api, StateType.PENDING), run_in(api, StateType.PENDING)
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(UUID(refused_run), refused, force=True)
            client.set_flow_run_state(UUID(begun), State(type=StateType.RUNNING), force=True)
        runs = (silent, refused_run, begun, waiting)
        until = time.monotonic() + 300
        while {state_of(api, silent), state_of(api, waiting)} != {"CRASHED"}:
            assert time.monotonic() < until, [state_of(api, run) for run in runs]
            time.sleep(1)
        time.sleep(10)  # whatever the others would be ended by has been, too
        assert [state_of(api, run) for run in runs] == ["CRASHED", "FAILED", "RUNNING", "CRASHED"]
        end_silent_runs()
    for run in runs:
        HTTP.delete(f"{api}/flow_runs/{run}", timeout=60).raise_for_status()


def test_a_server_is_asked_once_to_end_what_is_silent_and_once_to_begin_what_arrived(
    deployed: Deployed, api: str
) -> None:
    found = HTTP.post(f"{api}/automations/filter", json={}, timeout=60).json()
    silences = {one["name"]: one["trigger"]["within"] for one in found if one["name"].startswith("amoeba: runs that")}
    assert silences == {"amoeba: runs that were lost": 600, "amoeba: runs that never began": 3600}
    assert len([one for one in found if one["name"].startswith("amoeba: runs that")]) == 2
    assert len([one for one in found if "amoeba.base.arrived" in str(one["trigger"])]) == 1
    assert deployment(api, "arrive/main")["tags"] == ["amoeba"]


def test_a_server_that_is_asked_again_goes_on_with_what_it_has_heard(deployed: Deployed, api: str) -> None:
    def ends() -> dict[str, str]:
        found = HTTP.post(f"{api}/automations/filter", json={}, timeout=60).json()
        return {one["name"]: one["id"] for one in found if one["name"].startswith("amoeba: runs that")}

    before = ends()
    with temporary_settings({PREFECT_API_URL: api}):
        end_silent_runs()
        assert ends() == before
        end_silent_runs(silent=timedelta(minutes=9))
        changed = ends()
        end_silent_runs()
    assert {name for name, automation in changed.items() if automation != before[name]} == {LOST}
    assert set(ends()) == set(before)


def test_a_service_that_begins_on_a_server_of_many_ends_nobody_s_runs(
    deployed: Deployed, api: str, tmp_path: Path
) -> None:
    running = run_in(api, StateType.RUNNING)
    with served(make_workspace(tmp_path / "workspace"), "--every", "0", PREFECT_API_URL=api) as service:
        assert service.api == api
        assert state_of(api, running) == "RUNNING"
    HTTP.delete(f"{api}/flow_runs/{running}", timeout=60).raise_for_status()


def test_what_ran_in_a_service_that_was_killed_has_crashed_once_the_next_is_there(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "workspace")
    with served(workspace, "--every", "0") as killed:
        running = run_in(killed.api, StateType.RUNNING)
        server = psutil.Process(killed.process.pid).children(recursive=True)
        killed.process.kill()
        assert server
        assert psutil.wait_procs(server, timeout=60)[1] == []
    with served(workspace, "--every", "0") as next_one:
        assert state_of(next_one.api, running) == "CRASHED"
