"""Where the jobs of a flow run: threads of this process, processes, a Dask cluster or a Ray cluster, by one setting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from prefect.futures import PrefectFuture
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from components.progress import say
from flows.settings import settings

T = TypeVar("T")


def task_runner() -> TaskRunner[Any]:
    """The one that AMOEBA_TASK_RUNNER names, with AMOEBA_WORKERS jobs at a time.

    Of `dask` and `ray` AMOEBA_CLUSTER is the address; without one a cluster is made on this machine, for the flow. Raises
    ModuleNotFoundError where the extra of that name is not installed.
    """
    given = settings()
    made: TaskRunner[Any] | None = None
    if given.task_runner == "processes":
        return ProcessPoolTaskRunner(max_workers=given.workers)
    if given.task_runner == "dask":
        import dask
        from prefect_dask.task_runners import DaskTaskRunner

        # Dask's workers would hand builders a heap that is given back at every step, which doubles a build's time, and one thread.
        dask.config.set({"distributed.nanny.pre-spawn-environ": {}})
        # No limit of memory: what takes it are builders below the workers, which Dask does not count.
        workers = {"n_workers": given.workers, "threads_per_worker": 1, "memory_limit": 0}
        own: dict[str, Any] = {**workers, "dashboard_address": None}
        made = DaskTaskRunner(address=given.cluster) if given.cluster else DaskTaskRunner(cluster_kwargs=own)
    if given.task_runner == "ray":
        from prefect_ray import RayTaskRunner

        from flows.own_ray import OwnRay

        made = RayTaskRunner(address=given.cluster) if given.cluster else OwnRay.of(given.workers)
    return made or ThreadPoolTaskRunner(max_workers=given.workers)


def outcome_of(job: PrefectFuture[Any], again: Callable[[], T]) -> T | Exception:
    """What a job came to, or the error that it ended with; one whose worker was lost is done `again`, here.

    Dask and Ray give such a job to another worker first, three times more. A pool of processes that lost one loses all jobs.
    """
    try:
        came_to: T | Exception = job.result(raise_on_failure=False)
        return came_to
    except Exception as lost:  # what a job raised is returned: this is its runner speaking
        said = next(iter(str(lost).splitlines()), "")
        say(f"a job was lost with its worker ({type(lost).__name__}: {said}); it is done again, by the flow itself")
    try:
        return again()
    except Exception as error:
        return error
