"""An onboarding's own run in MLflow: what each step took, and meanwhile the machine's load.

One that was killed or failed goes on in the same run, and its seconds add up; one that was complete is left as it is when the same
base is onboarded again. A step ends in whatever process it was given to, and finds the run by the flow's. Nothing here fails an
onboarding.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Literal, TypeVar

from prefect.runtime import flow_run

from components.base import Base
from components.progress import say
from flows import metrics, tracking
from flows.bases import parameters
from flows.settings import settings
from flows.trouble import reason
from flows.work import key_of

T = TypeVar("T")
FLOW = "onboard"
_FLOW_TAG = "amoeba.flow_run"
_MOST_S = 30.0
"""That an onboarding waits for the last samples."""


class Ending:
    """What became of an onboarding: complete, incomplete where not every target was released, failed until it is known."""

    outcome: Literal["complete", "incomplete", "failed"] = "failed"


@contextmanager
def recorded(origin: Base, profile: str, targets: Sequence[str]) -> Iterator[Ending]:
    """Keep a run open inside; it ends FINISHED where the onboarding was complete."""
    ending, opened = Ending(), ExitStack()
    run = _tried(lambda: _open(opened, origin, profile, targets))
    try:
        yield ending
    finally:
        metrics.onboarding_ended(ending.outcome)
        if run is not None:
            run.complete = ending.outcome == "complete"
        _tried(opened.close)


def came_to_an_end(base: str, fingerprint: str, profile: str) -> bool:
    """Whether an onboarding of this revision was complete: released, pushed and shown, for whatever targets."""
    facts = {"base": base, "base_fingerprint": fingerprint, "profile": profile}
    return tracking.any_finished(_name_of(base), facts)


def took(step: str, target: str, seconds: float) -> None:
    """Add what a try of a step took, where this is an onboarding's."""
    if flow_run.flow_name == FLOW:
        _tried(lambda: _add(".".join(part for part in ("seconds", step, target) if part), seconds))


def _open(opened: ExitStack, origin: Base, profile: str, targets: Sequence[str]) -> tracking.Run | None:
    """None where this onboarding was complete before."""
    facts = {"base": origin.name, "base_fingerprint": origin.fingerprint, "profile": profile}
    given = {"targets": " ".join(sorted(targets)), "numbers": key_of(parameters())}
    work = (_name_of(origin.name), facts, given)
    if tracking.is_finished(*work):
        return None
    run = opened.enter_context(tracking.run(*work))
    run.tag(_FLOW_TAG, str(flow_run.id))
    if settings().system_metrics:
        opened.enter_context(_sampled(run.run_id))
    return run


def _name_of(base: str) -> str:
    return f"{FLOW} {base}"


def _add(name: str, seconds: float) -> None:
    run = tracking.tagged(_FLOW_TAG, str(flow_run.id))
    if run is not None:
        run.metrics({name: run.latest(name) + seconds})


@contextmanager
def _sampled(run_id: str) -> Iterator[None]:
    """MLflow's own monitor of processor, memory, disk, network and GPU, as often as `MLFLOW_SYSTEM_METRICS_*` says."""
    from mlflow.system_metrics import system_metrics_monitor

    logging.getLogger(system_metrics_monitor.__name__).setLevel(logging.WARNING)
    monitor = system_metrics_monitor.SystemMetricsMonitor(  # type: ignore[no-untyped-call]
        run_id, resume_logging=True, tracking_uri=settings().registry_uri
    )
    monitor.start()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        # A registry that is away at the end would hold the monitor, and it the onboarding.
        ending = threading.Thread(target=monitor.finish, name="last samples", daemon=True)
        ending.start()
        ending.join(_MOST_S)


def _tried(work: Callable[[], T]) -> T | None:
    try:
        return work()
    except Exception as error:
        say(f"the onboarding's run in MLflow is not complete: {reason(error)}")
        return None
