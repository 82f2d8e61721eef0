"""Every deployment: what it runs, and what starts it beside `amoeba serve` and people.

`amoeba serve` runs them all in one place; `amoeba deploy --pool NAME` gives them to a work pool, whose workers run them.
Entrypoints are modules, not files: a file is loaded under a name of its own, and its types are then not those of the library.
"""

from __future__ import annotations

import time
from typing import Any, cast

from prefect import Flow, flow
from prefect.deployments.runner import RunnerDeployment
from prefect.events import DeploymentEventTrigger
from prefect.types.entrypoint import EntrypointType

from flows.arriving import arrive
from flows.check import check
from flows.explore import explore
from flows.lost_runs import TAG
from flows.onboard import onboard
from flows.package import package
from flows.serving import Watcher

ARRIVED = "amoeba.base.arrived"
"""The event that starts `arrive`: its payload is a source, and perhaps a profile and targets."""
_STILL_S = 5


@flow(name="look")
def look() -> None:
    """Look at every watched source and start what is new; a dropped folder is whole when it stays as it is for a while."""
    watcher = Watcher(None)
    watcher.look()
    time.sleep(_STILL_S)
    watcher.look()


def deployments(cron: str = "", **place: Any) -> tuple[RunnerDeployment, ...]:
    """All of them; `cron` says when the sources are looked at, and `place` names a work pool, nothing where they are served."""

    def made(flow: Flow[..., Any], **more: Any) -> RunnerDeployment:
        how = {"tags": [TAG], "entrypoint_type": EntrypointType.MODULE_PATH, **place, **more}
        return cast("RunnerDeployment", flow.to_deployment("main", **how))  # a coroutine only inside an event loop

    by_event = DeploymentEventTrigger(
        name="a base has arrived",
        expect={ARRIVED},
        parameters={
            # Prefect puts its own filter after the expression, hence the brackets.
            "source": "{{ (event.payload.source) }}",
            "profile": "{{ (event.payload.profile or 'quick') }}",
            "targets": "{{ (event.payload.targets or []) }}",
        },
    )
    return (
        made(arrive, triggers=[by_event]),
        made(look, **({"cron": cron} if cron else {})),
        *(made(one) for one in (onboard, package, explore, check)),
    )
