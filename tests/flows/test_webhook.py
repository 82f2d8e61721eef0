from __future__ import annotations

import json
import queue
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import requests
import uvicorn
import yaml
from cryptography.fernet import Fernet
from fastapi.testclient import TestClient
from fixtures.services import free_port, started
from starlette.datastructures import Headers

from flows import receiving, service
from flows.own_server import ServiceError
from flows.serving import Watcher
from flows.watched import Watched
from flows.webhook import MOST_BODY_BYTES, Deliveries, NewVersion, WebhookError

SECRET = "a secret of some length"
NOW = 1_800_000_000.0
CREATED: dict[str, Any] = {"entity": "model_version", "action": "created", "data": {"name": "my-base", "version": "3"}}


def sent(
    event: Any = CREATED, delivery: str = "d-1", at: float = NOW, secret: str = SECRET
) -> tuple[dict[str, str], bytes]:
    """A body of one's own, signed as MLflow itself signs."""
    from mlflow.webhooks.delivery import _generate_hmac_signature

    body = event if isinstance(event, str) else json.dumps(event)
    signature = _generate_hmac_signature(secret, delivery, str(int(at)), body)
    names = {"signature": signature, "timestamp": str(int(at)), "delivery-id": delivery}
    return {f"x-mlflow-{name}": value for name, value in names.items()}, body.encode()


def delivered(entity: str, action: str, data: dict[str, Any], secret: str | None = SECRET) -> tuple[Headers, bytes]:
    """What MLflow's own code sends for an event, caught where it would leave the machine."""
    from mlflow.entities.webhook import Webhook, WebhookAction, WebhookEntity, WebhookEvent
    from mlflow.webhooks import delivery

    event = WebhookEvent(WebhookEntity(entity), WebhookAction(action))
    webhook = Webhook("w-1", "edge", "https://93.184.216.34/mlflow", [event], 0, 0, secret=secret)
    caught: list[tuple[Headers, bytes]] = []

    class Session:
        def post(self, url: str, data: bytes, headers: dict[str, str], timeout: float) -> None:
            caught.append((Headers(headers), data))

    delivery._send_webhook_request(webhook, data, event, Session())
    return caught[0]


@pytest.fixture
def deliveries() -> Deliveries:
    return Deliveries(SECRET, clock=lambda: NOW)


def refused(deliveries: Deliveries, headers: Mapping[str, str], body: bytes) -> WebhookError:
    with pytest.raises(WebhookError) as caught:
        deliveries.new_version(headers, body)
    return caught.value


def test_what_mlflow_signed_is_believed(deliveries: Deliveries) -> None:
    assert deliveries.new_version(*sent()) == NewVersion("my-base", "3")


def test_a_delivery_of_mlflow_s_own_making_is_believed() -> None:
    from mlflow.webhooks.types import ModelVersionCreatedPayload

    payload = ModelVersionCreatedPayload(
        name="my-base", version="3", source="models:/m-1", run_id="1", tags={"quote": 'ü "'}, description=None
    )
    told = Deliveries(SECRET).new_version(*delivered("model_version", "created", payload))
    assert told == NewVersion("my-base", "3")


def test_mlflow_s_other_events_mean_nothing_and_its_unsigned_deliveries_are_refused() -> None:
    alias = {"name": "my-base", "alias": "production", "version": "3"}
    assert Deliveries(SECRET).new_version(*delivered("model_version_alias", "created", alias)) is None
    unsigned = delivered("model_version", "created", CREATED["data"], secret=None)
    assert refused(Deliveries(SECRET), *unsigned).status == 401


def test_another_kind_of_event_is_taken_and_means_nothing(deliveries: Deliveries) -> None:
    assert deliveries.new_version(*sent({**CREATED, "action": "deleted"})) is None


@pytest.mark.parametrize(
    "change",
    [
        {"x-mlflow-signature": ""},
        {"x-mlflow-signature": "v1,AAAA"},
        {"x-mlflow-delivery-id": "d-2"},
        {"x-mlflow-timestamp": str(int(NOW) + 1)},
        {"x-mlflow-signature": "\u00fc"},
    ],
)
def test_anything_that_was_changed_on_the_way_is_refused(deliveries: Deliveries, change: dict[str, str]) -> None:
    headers, body = sent()
    assert refused(deliveries, {**headers, **change}, body).status == 401


def test_a_changed_body_and_another_secret_are_refused(deliveries: Deliveries) -> None:
    headers, body = sent()
    assert refused(deliveries, headers, body.replace(b"my-base", b"your-base")).status == 401
    assert refused(deliveries, *sent(secret="another secret of some length")).status == 401
    assert refused(deliveries, {}, body).status == 401


@pytest.mark.parametrize("away", [-301, 301])
def test_a_delivery_of_another_time_is_refused_though_signed(deliveries: Deliveries, away: int) -> None:
    assert refused(deliveries, *sent(at=NOW + away)).status == 401


def test_a_delivery_is_taken_once(deliveries: Deliveries) -> None:
    assert deliveries.new_version(*sent()) is not None
    assert refused(deliveries, *sent()).status == 409
    assert deliveries.new_version(*sent(delivery="d-2")) is not None


def test_what_is_remembered_is_bounded_and_forgets_only_what_is_too_old_to_be_taken_again() -> None:
    now = [NOW]
    deliveries = Deliveries(SECRET, clock=lambda: now[0])
    deliveries.new_version(*sent())
    now[0] += 700
    deliveries.new_version(*sent(delivery="d-2", at=now[0]))
    assert len(deliveries._taken) == 1
    assert refused(deliveries, *sent()).status == 401


@pytest.mark.parametrize(
    "event",
    [
        "",
        "[]",
        "{}",
        "[" * 60_000,
        {**CREATED, "data": None},
        {**CREATED, "data": {"name": "../x", "version": "1"}},
        {**CREATED, "data": {"name": "x\n", "version": "1"}},
        {**CREATED, "data": {"name": "x", "version": "1; rm"}},
        {**CREATED, "data": {"name": 7, "version": "1"}},
    ],
)
def test_a_signed_body_that_names_no_version_is_refused(deliveries: Deliveries, event: Any) -> None:
    assert refused(deliveries, *sent(event)).status == 400


def test_a_body_is_bounded_before_anything_is_done_with_it(deliveries: Deliveries) -> None:
    assert refused(deliveries, {}, b"x" * (MOST_BODY_BYTES + 1)).status == 413


def test_a_short_secret_is_no_secret() -> None:
    with pytest.raises(ValueError, match="at least 16 characters, got 5"):
        Deliveries("short")


@pytest.fixture
def woken(monkeypatch: pytest.MonkeyPatch) -> queue.Queue[NewVersion]:
    """Of what the watcher was told."""
    monkeypatch.setattr(receiving, "watched", lambda: (Watched("mlflow:my-base", "tiny"),))
    return queue.Queue()


@pytest.fixture
def client(deliveries: Deliveries, woken: queue.Queue[NewVersion]) -> TestClient:
    return TestClient(receiving.application(deliveries, woken.put))


def test_a_delivery_of_a_watched_model_wakes_the_watcher(client: TestClient, woken: queue.Queue[NewVersion]) -> None:
    headers, body = sent()
    assert client.post("/mlflow", content=body, headers=headers).status_code == 204
    assert woken.get_nowait() == NewVersion("my-base", "3")


def test_a_delivery_of_another_model_wakes_nobody(client: TestClient, woken: queue.Queue[NewVersion]) -> None:
    headers, body = sent({**CREATED, "data": {"name": "other", "version": "1"}})
    assert client.post("/mlflow", content=body, headers=headers).status_code == 204
    assert woken.empty()


def test_a_delivery_wakes_the_watcher_where_what_is_watched_cannot_be_read_now(
    client: TestClient, woken: queue.Queue[NewVersion], monkeypatch: pytest.MonkeyPatch
) -> None:
    def edited() -> None:
        raise yaml.YAMLError("half a line")

    monkeypatch.setattr(receiving, "watched", edited)
    headers, body = sent()
    assert client.post("/mlflow", content=body, headers=headers).status_code == 204
    assert woken.get_nowait() == NewVersion("my-base", "3")


def test_what_is_not_believed_is_told_its_status_and_wakes_nobody(
    client: TestClient, woken: queue.Queue[NewVersion]
) -> None:
    headers, body = sent()
    assert client.post("/mlflow", content=body).status_code == 401
    assert client.post("/mlflow", content=b"x" * (MOST_BODY_BYTES + 1), headers=headers).status_code == 413
    assert client.get("/mlflow").status_code == 405
    assert woken.empty()


def test_without_a_secret_no_delivery_is_taken_and_health_is_told() -> None:
    client = TestClient(receiving.application(None, lambda told: None))
    assert client.post("/mlflow", content=b"{}").status_code == 404
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/docs").status_code == 404


@pytest.fixture
def receiver(woken: queue.Queue[NewVersion]) -> Iterator[str]:
    """The receiver on a port of its own, with this machine's clock."""
    server = uvicorn.Server(uvicorn.Config(receiving.application(Deliveries(SECRET), woken.put), log_level="warning"))
    with socket.create_server(("127.0.0.1", 0)) as address:
        thread = threading.Thread(target=server.run, args=([address],))
        thread.start()
        yield f"http://127.0.0.1:{address.getsockname()[1]}/mlflow"
        server.should_exit = True
        thread.join(60)


def test_a_signed_delivery_at_the_service_s_port_wakes_its_watcher(
    woken: queue.Queue[NewVersion], monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher, port = Watcher(None), free_port()
    monkeypatch.setattr(watcher, "wake", lambda: woken.put(NewVersion("my-base", "3")))
    headers, body = sent(at=time.time())
    with service._receiving("127.0.0.1", port, Deliveries(SECRET), watcher):
        assert requests.get(f"http://127.0.0.1:{port}/health", timeout=60).json() == {"status": "ok"}
        assert requests.post(f"http://127.0.0.1:{port}/mlflow", data=body, timeout=60).status_code == 401
        assert woken.empty()
        assert requests.post(f"http://127.0.0.1:{port}/mlflow", data=body, headers=headers, timeout=60).ok
        assert woken.get(timeout=60) == NewVersion("my-base", "3")


def test_a_port_that_is_taken_is_said(woken: queue.Queue[NewVersion]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(ServiceError, match=rf"127.0.0.1:{port} cannot be served: .*; --port names another"),
            service._receiving("127.0.0.1", port, None, Watcher(None)),
        ):
            pass


@pytest.fixture
def mlflow_server(tmp_path: Path) -> Iterator[str]:
    """`mlflow server` as a team runs it, allowed to call an address of this machine without TLS."""
    address = f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", address.rpartition(":")[2]]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{tmp_path / 'mlflow.db'}"]
    environment = {
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http",
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": Fernet.generate_key().decode(),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    with started(command, tmp_path / "mlflow.log", environment, f"{address}/health"):
        yield address


def test_a_server_of_mlflow_tells_of_a_version_the_moment_it_is_registered(
    mlflow_server: str, receiver: str, woken: queue.Queue[NewVersion]
) -> None:
    from mlflow.entities.webhook import WebhookEvent
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=mlflow_server, registry_uri=mlflow_server)
    made = client.create_webhook("edge", receiver, [WebhookEvent.from_str("model_version.created")], secret=SECRET)
    assert client.test_webhook(made.webhook_id).response_status == 204
    for name in ("other", "my-base"):
        client.create_registered_model(name)
        client.create_model_version(name, "s3://somewhere/else")
    assert woken.get(timeout=60) == NewVersion("my-base", "1")
    assert woken.empty()
