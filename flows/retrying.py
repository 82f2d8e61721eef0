"""Which failures another try can help: a registry or remote that is away, a worker that was killed. A bad input stays bad."""

from __future__ import annotations

from typing import Any

from components.progress import say
from flows.data import PassingError
from flows.work import LostWorkerError
from registry.errors import UnreachableError

PASSING = (LostWorkerError, PassingError, UnreachableError)
WAITS_S = [5.0, 20.0, 60.0]
"""Before each further try."""


def may_pass(error: object) -> bool:
    return isinstance(error, PASSING)


def tries_are_left(tries: int) -> bool:
    """After so many of them."""
    return tries <= len(WAITS_S)


def can_help(task: Any, run: Any, state: Any) -> bool:
    """Whether a task that failed is tried again; as Prefect asks, `retry_condition_fn`."""
    error = state.result(raise_on_failure=False)
    if not may_pass(error):
        return False
    say(f"{run.name}: {error}; trying again where tries are left")
    return True


RETRIES: dict[str, Any] = {
    "retries": len(WAITS_S),
    "retry_delay_seconds": WAITS_S,
    "retry_condition_fn": can_help,
}
"""Options of a Prefect task whose failure may pass."""
