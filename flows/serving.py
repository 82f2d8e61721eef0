"""Sources are looked at again and again, and each new revision of a base starts once."""

from __future__ import annotations

import math
import threading
import time
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
INTERRUPTED = "Interrupted"
"""The state of a run that ended with the service that ran it: no fault of its own."""
AFTER_S = (0, 60, 900)
"""When each try of an onboarding begins, after the one before failed or was lost."""
_MOST_RUNS = 20
"""Of a revision, interrupted ones too: one of them may be what ends the service."""
_ASK_AGAIN_S = 60.0
"""Between two questions after what was begun, and to a source that did not answer, however rarely sources are looked at."""


def start(arrival: Arrival, tries: Callable[[Arrival, int, int], FlowRun] | None = None) -> bool:
    """A run of `arrive` for a revision, again where one failed or was lost; whether there is nothing left to start.

    Prefect makes one run of a try, however often and by whomever it is asked for.
    """
    failed = 0
    for number in range(_MOST_RUNS):
        state = (tries or _run)(arrival, number, AFTER_S[failed]).state
        if state is None or not state.is_final():
            return False
        if state.name == REFUSED:
            say(f"{arrival.source} was refused: {state.message}; once that is mended, `{_again(arrival)}` tries again")
        if state.is_completed() or state.is_cancelled() or state.name == REFUSED:
            return True
        failed += state.name != INTERRUPTED
        if failed == len(AFTER_S):
            break
    say(f"{arrival.source}: {number + 1} tries failed; Prefect says why, `{_again(arrival)}` tries again")
    return True


def _again(arrival: Arrival) -> str:
    targets = "".join(f" --target {target}" for target in arrival.watched.targets)
    return f"amoeba onboard {arrival.source} --profile {arrival.watched.profile}{targets}"


def _run(arrival: Arrival, number: int, after_s: int) -> FlowRun:
    from prefect.deployments import run_deployment

    asked = {"source": arrival.source, "profile": arrival.watched.profile, "targets": list(arrival.watched.targets)}
    run = run_deployment(
        ARRIVE,
        parameters=asked,
        scheduled_time=datetime.now(UTC) + timedelta(seconds=after_s),
        idempotency_key=f"{arrival.key}-{number}",
        timeout=0,
        as_subflow=False,
    )
    return cast("FlowRun", run)  # a coroutine only inside an event loop


class Watcher:
    """Looks at every source again and again, and at once when it is woken."""

    def __init__(
        self, every_s: float | None, begin: Callable[[Arrival], bool] = start, watch: Watch | None = None
    ) -> None:
        """`every_s` None: once, and when it is woken. `begin` says whether there is nothing left to start."""
        self._every_s = math.inf if every_s is None else every_s
        self._begin, self._watch = begin, watch or Watch()
        self._settled: set[str] = set()
        self._open: tuple[Arrival, ...] = ()
        """What the last look found and is not settled."""
        self._woken, self._stopped = threading.Event(), threading.Event()

    def wake(self) -> None:
        self._woken.set()

    def stop(self) -> None:
        self._stopped.set()
        self._woken.set()

    def look(self) -> bool:
        """At every source, once, and begin what is there; whether all answered."""
        unanswered: list[str] = []
        self._open = self._watch.whole(watched(), unanswered.append)
        for why in unanswered:
            say(why)
        self.go_on()
        metrics.sources_looked_at()
        return not unanswered

    def go_on(self) -> None:
        """Begin or ask after what the last look found; no source is asked. What cannot be started now stays open."""
        for arrival in self._open:
            if arrival.key in self._settled:
                continue
            try:
                if self._begin(arrival):
                    self._settled.add(arrival.key)
            except Exception as error:  # the Prefect server's and its transport's errors share no base class
                say(f"{arrival.source} cannot be started now: {error}")
        self._open = tuple(arrival for arrival in self._open if arrival.key not in self._settled)

    def run(self) -> None:
        """Until it is stopped, whatever goes wrong in between; a failed try is noticed between two looks, too."""
        next_look = time.monotonic()
        while not self._stopped.is_set():
            looking, answered = self._woken.is_set() or time.monotonic() >= next_look, False
            try:
                if looking:
                    self._woken.clear()
                    answered = self.look()
                else:
                    self.go_on()
            except Exception as error:  # such as a bases.yaml that somebody is editing
                say(f"the sources cannot be looked at now: {error}")
            if looking:  # again soon where a source did not answer: what a webhook told of is told once
                next_look = time.monotonic() + (self._every_s if answered else min(self._every_s, _ASK_AGAIN_S))
            most_s = _ASK_AGAIN_S if self._open else threading.TIMEOUT_MAX
            self._woken.wait(min(next_look - time.monotonic(), most_s))


def is_watched(model: str, bases: tuple[Watched, ...]) -> bool:
    return any(one.registered_model == model for one in bases)
