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

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

TAG = "amoeba"
AUTOMATION = "amoeba: runs that were lost"
SILENT = timedelta(minutes=10)
_BEGUN = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
_BEAT = "prefect.flow-run.heartbeat"
_ENDED = ("Completed", "Failed", "Crashed", "Cancelled", "Paused", "Suspended", "AwaitingRetry")


def end_lost_runs() -> int:
    """Where this process starts the only server there is, whatever was running is not any more; how many were."""
    begun = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_BEGUN)), tags=FlowRunFilterTags(all_=[TAG])
    )
    with get_client(sync_client=True) as client:
        lost = client.read_flow_runs(flow_run_filter=begun)
        for run in lost:
            client.set_flow_run_state(run.id, Crashed(message="the service that ran it ended"), force=True)
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


def end_silent_runs(silent: timedelta = SILENT) -> None:
    """Have a server that many use end, from now on, each of our runs that was not heard of for so long."""
    automation = AutomationCore(
        name=AUTOMATION,
        description="A worker or a service that is gone cannot say so itself.",
        trigger=EventTrigger(
            after={_BEAT},
            expect={_BEAT, *(f"prefect.flow-run.{state}" for state in _ENDED)},
            match_related={"prefect.resource.id": [f"prefect.tag.{TAG}"], "prefect.resource.role": ["tag"]},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=0,
            within=silent,
        ),
        actions=[
            ChangeFlowRunState(
                name=None, state=StateType.CRASHED, message=f"nothing was heard of it for {silent}", force=True
            )
        ],
    )
    with get_client(sync_client=True) as client:
        for known in client.read_automations_by_name(AUTOMATION):
            client.delete_automation(known.id)
        client.create_automation(automation)


def _is_killed(run: FlowRun) -> bool:
    """Whether the process that a run names, as Prefect's own workers do, is of this machine and no more."""
    host, _, process = (run.infrastructure_pid or "").rpartition(":")
    return host == socket.gethostname() and process.isdigit() and not is_running(int(process))
