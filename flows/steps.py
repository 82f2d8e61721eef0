"""Steps of a flow: Prefect's tasks, tried again where that can help, whose lines, times and failures say which step it was.

A flow reads as before. What is observed is taken inside the step's own process, so threads, processes, Dask and Ray are alike.
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task
from prefect.runtime import flow_run, task_run

from components import messages
from flows import metrics, onboarding_run, traces
from flows.retrying import RETRIES, may_pass, tries_are_left

P = ParamSpec("P")
R = TypeVar("R")

traces.begin()  # Prefect opens a task's span before its function runs, wherever that is


def step(name: str) -> Callable[[Callable[P, R]], Task[P, R]]:
    """A task of that name: its step, and after a space its target, each of which may be filled in from its arguments."""

    def made(function: Callable[P, R]) -> Task[P, R]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def observed(*args: P.args, **kwargs: P.kwargs) -> R:
            return _observed(name, signature.bind(*args, **kwargs).arguments, lambda: function(*args, **kwargs))

        return task(task_run_name=name, **RETRIES)(observed)

    return made


def told(function: Callable[P, R]) -> Callable[P, R]:
    """A flow's function, whose lines say which run it is, and what base and target it was asked for."""
    signature = inspect.signature(function, eval_str=True)

    @functools.wraps(function)
    def observed(*args: P.args, **kwargs: P.kwargs) -> R:
        messages.take_library_logs()
        asked = signature.bind(*args, **kwargs).arguments
        with messages.telling(run=flow_run.id, base=asked.get("model"), target=asked.get("target")):
            return function(*args, **kwargs)

    observed.__signature__ = signature  # type: ignore[attr-defined]  # Prefect would look types up in this module
    return observed


def _observed(name: str, given: dict[str, Any], work: Callable[[], R]) -> R:
    what, _, target = name.format(**given).partition(" ")
    base = getattr(given.get("base"), "name", given.get("model"))
    outcome, began_s = "stopped", time.monotonic()
    with messages.telling(run=flow_run.id, base=base, target=target, step=what):
        try:
            done = work()
            outcome = "done"
            return done
        except Exception as error:
            outcome = "failed"
            metrics.step_failed(what, error, may_pass(error) and tries_are_left(task_run.run_count or 1))
            raise
        finally:
            took_s = time.monotonic() - began_s
            metrics.step_ended(what, target, outcome, took_s)
            onboarding_run.took(what, target, took_s)
