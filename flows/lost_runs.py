"""Runs whose process is gone without a word: they end as crashed, so that the next try begins.

A flow's process says every few minutes that it is there (`PREFECT_FLOWS_HEARTBEAT_FREQUENCY`, 180 s when not set).
"""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from typing import TYPE_CHECKING

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import StateType
from prefect.context import FlowRunContext
from prefect.events import AutomationCore, EventTrigger, Posture
from prefect.events.actions import ChangeFlowRunState
from prefect.states import Crashed

from flows.lost import is_running
from flows.serving import INTERRUPTED, REFUSED

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

TAG = "amoeba"
LOST, NEVER_BEGAN = "amoeba: runs that were lost", "amoeba: runs that never began"
"""What the server's automations are called."""
SILENT = timedelta(minutes=10)
TO_BEGIN = timedelta(hours=1)
"""That a worker may take from accepting a run to the run's first word: it fetches an image, waits for a node."""
_BEGUN = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
_BEAT = "prefect.flow-run.heartbeat"
_WAITS = ("Paused", "Suspended", "AwaitingRetry")
_ENDED = ("Completed", "Failed", "Crashed", "Cancelled", REFUSED)


def end_lost_runs() -> int:
    """Where this process starts the only server there is, whatever was running is not any more; how many were."""
    begun = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_BEGUN)), tags=FlowRunFilterTags(all_=[TAG])
    )
    with get_client(sync_client=True) as client:
        lost = client.read_flow_runs(flow_run_filter=begun)
        for run in lost:
            client.set_flow_run_state(
                run.id, Crashed(name=INTERRUPTED, message="the service that ran it ended"), force=True
            )
    return len(lost)


def end_those_of_killed_processes() -> None:
    """Tell Prefect which process runs this flow, and that those of processes of this machine that are gone have crashed."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:  # called as a function
        return
    running = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING])))
    with get_client(sync_client=True) as client:
        client.update_flow_run(context.flow_run.id, infrastructure_pid=f"{socket.gethostname()}:{os.getpid()}")
        for run in client.read_flow_runs(flow_run_filter=running):
            if run.id != context.flow_run.id and _is_killed(run):
                client.set_flow_run_state(run.id, Crashed(message="its process was killed"), force=True)


def end_silent_runs(silent: timedelta = SILENT, to_begin: timedelta = TO_BEGIN) -> None:
    """Have a server that many use end, from now on, each of our runs that was not heard of for so long.

    One that does so already stays: with it the server would forget which runs it has heard of.
    """
    with get_client(sync_client=True) as client:
        for wanted in (
            _silence(LOST, {_BEAT}, {_BEAT, *_told(*_WAITS, *_ENDED)}, silent),
            _silence(
                NEVER_BEGAN,
                _told("Pending"),
                {_BEAT, *_told("Scheduled", "Running", "Cancelling", *_WAITS, *_ENDED)},
                to_begin,
            ),
        ):
            known = client.read_automations_by_name(wanted.name)
            kept = next((one.id for one in known if one.model_dump(exclude={"id"}) == wanted.model_dump()), None)
            if kept is None:
                kept = client.create_automation(wanted)
            for one in known:
                if one.id != kept:
                    client.delete_automation(one.id)


def _silence(name: str, after: set[str], expect: set[str], within: timedelta) -> AutomationCore:
    """What ends a run of ours of which, after one of the former events, none of the latter is heard in time."""
    return AutomationCore(
        name=name,
        description="A worker or a service that is gone cannot say so itself.",
        trigger=EventTrigger(
            after=after,
            expect=expect,
            match_related={"prefect.resource.id": [f"prefect.tag.{TAG}"], "prefect.resource.role": ["tag"]},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,  # fewer than so many fire it
            within=within,
        ),
        actions=[
            ChangeFlowRunState(
                name=None, state=StateType.CRASHED, message=f"nothing was heard of it for {within}", force=True
            )
        ],
    )


def _told(*states: str) -> set[str]:
    """The events of a run's changes to these states, by their names."""
    return {f"prefect.flow-run.{state}" for state in states}


def _is_killed(run: FlowRun) -> bool:
    """Whether the process that a run names, as Prefect's own workers do, is of this machine and no more."""
    host, _, process = (run.infrastructure_pid or "").rpartition(":")
    return host == socket.gethostname() and process.isdigit() and not is_running(int(process))
