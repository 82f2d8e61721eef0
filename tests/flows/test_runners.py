"""Jobs run where AMOEBA_TASK_RUNNER says, and their results are the same everywhere, also where a worker is killed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from fixtures.fan_out import Killing, builders, builds, package
from fixtures.service import prefect_server
from fixtures.tiny import make_model, write_base
from prefect import flow, task
from prefect.context import refresh_global_settings_context
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import settings
from flows.own_ray import RayError
from flows.runners import outcome_of, task_runner

RUNNERS = ("threads", "processes", "dask", "ray")
SHAPE, CONTEXTS = "d2w100", (64, 96)


@task
def job(number: int) -> tuple[int, int, str | None]:
    """A figure, the process that made it, and how eagerly that gives memory back."""
    if number < 0:
        raise ValueError(f"{number} is below 0")
    return number * number, os.getpid(), os.environ.get("MALLOC_TRIM_THRESHOLD_")


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with prefect_server(tmp_path_factory.mktemp("prefect")) as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_API_URL", address)
        with temporary_settings({PREFECT_API_URL: address}):
            refresh_global_settings_context()  # for Prefect's own threads
            yield address
    refresh_global_settings_context()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("subnet") / "checkpoint", make_model(layers=2))


@pytest.fixture(scope="module")
def undisturbed(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("undisturbed")
    return [package.fn(checkpoint, SHAPE, context, folder)[0] for context in CONTEXTS]


@pytest.mark.parametrize("name", RUNNERS)
def test_a_failed_job_and_a_killed_worker_lose_no_other_job_wherever_jobs_run(
    name: str, api: str, checkpoint: Path, undisturbed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings.settings(), "task_runner", name)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(str(folder) for folder in Path(__file__).parents[1:3]))
    killing = Killing(daemon=True)
    killing.start()

    @flow(task_runner=task_runner())
    def fan_out() -> tuple[list[object], list[object]]:
        jobs = [job.submit(number) for number in (1, -1, 3)]
        outcomes = [outcome_of(one, lambda: pytest.fail("a job was done again")) for one in jobs]
        return outcomes, builds(checkpoint, SHAPE, CONTEXTS, tmp_path)

    (first, failed, last), built = _unless_the_machine_is_too_busy(fan_out)
    assert (first[0], last[0]) == (1, 9)
    assert isinstance(failed, ValueError)
    assert {first[1] == os.getpid(), last[1] == os.getpid()} == {name == "threads"}
    assert first[2] == os.environ.get("MALLOC_TRIM_THRESHOLD_")
    assert [one[0] for one in built] == undisturbed
    assert killing.worker is not None
    assert psutil.wait_procs([killing.builder], timeout=60)[1] == []  # also where only its parent was killed
    assert not builders()


def _unless_the_machine_is_too_busy(fan_out: Callable[[], Any]) -> Any:
    """Ray gives each of its helpers 15 seconds to load, which is too little where many others want the processors."""
    try:
        return fan_out()
    except RayError as error:
        if os.getloadavg()[0] > 2 * (os.cpu_count() or 1):
            pytest.skip(str(error))
        raise
