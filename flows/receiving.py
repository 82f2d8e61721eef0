"""The service's own address: webhooks come in, health and metrics go out."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import FastAPI, Request, Response

from components.progress import say
from flows import metrics
from flows.serving import is_watched
from flows.watched import watched
from flows.webhook import MOST_BODY_BYTES, Deliveries, NewVersion, WebhookError


def application(deliveries: Deliveries | None, arrived: Callable[[NewVersion], None]) -> FastAPI:
    """`GET /health` and `GET /metrics`, and `POST /mlflow` where there is a secret.

    A delivery only wakes the watcher, which asks the registry.
    """
    app = FastAPI(title="amoeba serve", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics")
    def counted() -> Response:
        return Response(metrics.exposition(), media_type="text/plain; version=0.0.4")

    if deliveries is None:
        return app

    @app.post("/mlflow")
    async def mlflow(request: Request) -> Response:
        try:
            told = deliveries.new_version(request.headers, await _bounded(request))
        except WebhookError as error:
            return Response(str(error), error.status, media_type="text/plain")
        if told is not None and _may_be_watched(told.model):
            arrived(told)
        return Response(status_code=204)

    return app


def _may_be_watched(model: str) -> bool:
    """Also where that cannot be said now: the watcher asks again, and a delivery that MLflow sends again was taken before."""
    try:
        return is_watched(model, watched())
    except Exception as error:  # such as a bases.yaml that somebody is editing
        say(f"a webhook told of {model}, and what is watched cannot be read: {error}")
        return True


async def _bounded(request: Request) -> bytes:
    """The body, as far as it is within the bound and a piece more."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > MOST_BODY_BYTES:
            break
    return body
