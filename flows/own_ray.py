"""Ray on this machine, for as long as a flow runs."""

from __future__ import annotations

from typing import Any

import ray
from prefect_ray import RayTaskRunner

from components.progress import say

_TRIES = 3
_RECORDS_BYTES = 100_000_000
"""Of shared memory: jobs hand records to each other, never tensors. Ray by itself takes a third of the machine's memory."""


class RayError(Exception):
    """Ray does not start here."""


class OwnRay(RayTaskRunner[Any]):  # type: ignore[misc]
    """Ray ends where one of its helpers, each a Python process, is not there after 15 seconds, which no setting changes.

    On a busy machine a further try finds in memory what the one before had to read. Raises RayError.
    """

    @classmethod
    def of(cls, workers: int) -> OwnRay:
        return cls(init_kwargs={"num_cpus": workers, "include_dashboard": False, "object_store_memory": _RECORDS_BYTES})

    def __enter__(self) -> OwnRay:
        self._started_here = not ray.is_initialized()  # Prefect enters a flow's runner in each worker, too
        if self._started_here:
            self._start()
        super().__enter__()  # takes the one that runs
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        if self._started_here:
            ray.shutdown()

    def _start(self) -> None:
        for tried in range(1, _TRIES + 1):
            try:
                ray.init(**self.init_kwargs)
                return
            except Exception as error:  # whatever its helpers ended with
                ray.shutdown()
                if tried == _TRIES:
                    raise RayError(
                        f"Ray does not start on this machine ({error}); AMOEBA_CLUSTER names one that runs, "
                        "AMOEBA_TASK_RUNNER another engine"
                    ) from error
            say(f"Ray did not start, try {tried} of {_TRIES}; trying again")
