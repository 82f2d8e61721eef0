"""Sources are looked at again and again, and each new revision of a base starts once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, cast

from components.progress import say
from flows import metrics
from flows.arrivals import Arrival, Watch
from flows.watched import Watched, watched

if TYPE_CHECKING:
    from prefect.client.schemas import FlowRun

ARRIVE = "arrive/main"
REFUSED = "Refused"
"""The state of a run that another try would not help."""
AFTER_S = (0, 60, 900)
"""When each try of an onboarding begins, after the one before failed or was lost."""


def start(arrival: Arrival, tries: Callable[[Arrival, int], FlowRun] | None = None) -> bool:
    """A run of `arrive` for a revision, again where one failed or was lost; whether there is nothing left to start.

    Prefect makes one run of a try, however often and by whomever it is asked for.
    """
    for attempt in range(len(AFTER_S)):
        state = (tries or _run)(arrival, attempt).state
        if state is None or not state.is_final():
            return False
        if state.is_completed() or state.is_cancelled() or state.name == REFUSED:
            return True
    say(f"{arrival.source}: {len(AFTER_S)} tries failed; Prefect says why, `amoeba onboard` tries again")
    return True


def _run(arrival: Arrival, attempt: int) -> FlowRun:
    from prefect.deployments import run_deployment

    asked = {"source": arrival.source, "profile": arrival.watched.profile, "targets": list(arrival.watched.targets)}
    run = run_deployment(
        ARRIVE,
        parameters=asked,
        scheduled_time=datetime.now(UTC) + timedelta(seconds=AFTER_S[attempt]),
        idempotency_key=f"{arrival.key}-{attempt}",
        timeout=0,
        as_subflow=False,
    )
    return cast("FlowRun", run)  # a coroutine only inside an event loop


class Watcher:
    """Looks at every source again and again, and at once when it is woken."""

    def __init__(
        self, every_s: float | None, begin: Callable[[Arrival], bool] = start, watch: Watch | None = None
    ) -> None:
        """`every_s` None: only when it is woken. `begin` says whether there is nothing left to start."""
        self._every_s, self._begin, self._watch = every_s, begin, watch or Watch()
        self._settled: set[str] = set()
        self._woken, self._stopped = threading.Event(), threading.Event()

    def wake(self) -> None:
        self._woken.set()

    def stop(self) -> None:
        self._stopped.set()
        self._woken.set()

    def look(self) -> None:
        """Once. What cannot be started now is started at a later look."""
        for arrival in self._watch.whole(watched(), say):
            if arrival.key in self._settled:
                continue
            try:
                if self._begin(arrival):
                    self._settled.add(arrival.key)
            except Exception as error:  # the Prefect server's and its transport's errors share no base class
                say(f"{arrival.source} cannot be started now: {error}")
        metrics.sources_looked_at()

    def run(self) -> None:
        """Until it is stopped, whatever goes wrong in between."""
        while not self._stopped.is_set():
            self._woken.clear()
            try:
                self.look()
            except Exception as error:  # such as a bases.yaml that somebody is editing
                say(f"the sources cannot be looked at now: {error}")
            self._woken.wait(self._every_s)


def is_watched(model: str, bases: tuple[Watched, ...]) -> bool:
    return any(one.registered_model == model for one in bases)
