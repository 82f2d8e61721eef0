"""`amoeba serve` and `amoeba deploy`, put together. Prefect is imported only once its settings are there."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from components.progress import say
from flows.own_server import ServiceError, given_server, prefect_server
from flows.settings import environment_of_runs, settings
from flows.webhook import Deliveries
from registry.reaching import shown

if TYPE_CHECKING:
    from flows.serving import Watcher


def run(every_s: float, cron: str, host: str, port: int, at_once: int) -> None:
    """Serve until it is stopped; raises ServiceError or ValueError where it cannot begin."""
    os.environ["AMOEBA_WORKSPACE"] = str(settings().root)  # for the runs, wherever they are started
    secret = settings().webhook_secret
    deliveries = Deliveries(secret.get_secret_value()) if secret is not None else None
    signal.signal(signal.SIGTERM, _stop)  # until Prefect has its own
    with ExitStack() as running:
        own = running.enter_context(prefect_server())
        from prefect.runner import Runner

        from flows.deployments import deployments
        from flows.lost_runs import end_lost_runs, end_silent_runs
        from flows.serving import Watcher

        if own:
            end_lost_runs()
        else:
            end_silent_runs()
        runner = Runner(name="amoeba", limit=at_once)
        for deployment in deployments(cron):
            runner.add_deployment(deployment)
        watcher = Watcher(every_s or None)
        if port:
            running.enter_context(_receiving(host, port, deliveries, watcher))
        running.enter_context(_watching(watcher))
        say(f"serving; runs are at {shown(os.environ['PREFECT_API_URL'])}")
        asyncio.run(runner.start())


def _stop(*_: Any) -> None:
    raise SystemExit(0)


@contextmanager
def _watching(watcher: Watcher) -> Iterator[None]:
    threading.Thread(target=watcher.run, name="watcher", daemon=True).start()
    try:
        yield
    finally:
        watcher.stop()


@contextmanager
def _receiving(host: str, port: int, deliveries: Deliveries | None, watcher: Watcher) -> Iterator[None]:
    """Raises ServiceError for an address that cannot be had."""
    import uvicorn

    from flows import metrics
    from flows.receiving import application

    try:
        address = socket.create_server((host, port))
    except OSError as error:
        raise ServiceError(f"{host}:{port} cannot be served: {error.strerror}; --port names another") from error
    metrics.begin()
    app = application(deliveries, lambda told: watcher.wake())
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
    threading.Thread(target=server.run, args=([address],), name="webhooks", daemon=True).start()
    if deliveries is None:
        say("AMOEBA_WEBHOOK_SECRET is not set: no webhooks are taken, and the registry is looked at instead")
    try:
        yield
    finally:
        server.should_exit = True


def deploy_to(pool: str, image: str | None, cron: str) -> tuple[str, ...]:
    """Names of the deployments that a work pool has from now on; raises ServiceError where it cannot take them."""
    given_server()
    from prefect.client.orchestration import get_client
    from prefect.deployments.runner import DeploymentApplyError
    from prefect.exceptions import ObjectNotFound

    from flows.deployments import deployments
    from flows.lost_runs import end_silent_runs

    try:
        with get_client(sync_client=True) as client:
            found = client.read_work_pool(pool)
    except ObjectNotFound:
        raise ServiceError(
            f"no work pool is called {pool!r}; `prefect work-pool create {pool} --type process` makes one"
        ) from None
    variables = {"env": environment_of_runs(), **_image_of(found.type, found.base_job_template, image)}
    made = deployments(cron, work_pool_name=pool, job_variables=variables)
    for deployment in made:
        try:
            deployment.apply()
        except DeploymentApplyError as error:
            raise ServiceError(f"Prefect refuses {deployment.flow_name} for the pool {pool!r}: {error}") from error
    end_silent_runs()
    return tuple(f"{deployment.flow_name}/{deployment.name}" for deployment in made)


def _image_of(kind: str, template: dict[str, Any], image: str | None) -> dict[str, str]:
    """A pool of containers needs an image that this project is installed in, and no other pool takes one."""
    takes = "image" in template.get("variables", {}).get("properties", {})
    if takes and image is None:
        raise ServiceError(f"a pool of type {kind} runs containers; --image names one that has this project installed")
    if image is not None and not takes:
        raise ServiceError(f"a pool of type {kind} runs no containers; leave --image out")
    return {"image": image} if image is not None else {}
