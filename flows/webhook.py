"""What MLflow tells of its registry by webhook, believed only where it is signed, fresh and new.

MLflow signs `delivery id . timestamp . body` with the webhook's secret (HMAC-SHA256, as Standard Webhooks do). Hence

1. a body is read up to a bound, and parsed only after its signature was checked, in constant time;
2. a delivery older or newer than five minutes is refused, and so is one that was taken before;
3. nothing of the body is believed but the names of a model and a version: what they are is asked of the registry.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

MOST_BODY_BYTES = 65_536
_FRESH_S = 300
_MOST_KEPT = 10_000
_SIGNATURE, _TIMESTAMP, _DELIVERY = "x-mlflow-signature", "x-mlflow-timestamp", "x-mlflow-delivery-id"
_NAME = re.compile(r"[^/:\s\x00-\x1f]{1,250}")


class WebhookError(ValueError):
    """A delivery that is not believed; `status` is the HTTP status that its sender gets."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class NewVersion:
    """A version that somebody registered."""

    model: str
    version: str


class Deliveries:
    """Checks deliveries against one secret, and remembers those of the last minutes."""

    def __init__(self, secret: str, clock: Callable[[], float] = time.time) -> None:
        if len(secret) < 16:
            raise ValueError(f"a webhook's secret has at least 16 characters, got {len(secret)}")
        self._secret, self._clock = secret.encode(), clock
        self._taken: OrderedDict[str, float] = OrderedDict()
        self._one_at_a_time = threading.Lock()

    def new_version(self, headers: Mapping[str, str], body: bytes) -> NewVersion | None:
        """The version that a delivery tells of, None for another kind of event; raises WebhookError.

        `headers` are by lower-case name.
        """
        if len(body) > MOST_BODY_BYTES:
            raise WebhookError(413, f"a delivery has at most {MOST_BODY_BYTES} bytes, got {len(body)}")
        delivery, timestamp = headers.get(_DELIVERY, ""), headers.get(_TIMESTAMP, "")
        self._check_signature(delivery, timestamp, headers.get(_SIGNATURE, ""), body)
        self._check_fresh(delivery, timestamp)
        return _told(body)

    def _check_signature(self, delivery: str, timestamp: str, given: str, body: bytes) -> None:
        signed = f"{delivery}.{timestamp}.".encode() + body
        wanted = b"v1," + base64.b64encode(hmac.digest(self._secret, signed, hashlib.sha256))
        if not hmac.compare_digest(wanted, given.encode()):
            raise WebhookError(401, "the delivery is not signed with this service's secret")

    def _check_fresh(self, delivery: str, timestamp: str) -> None:
        now = self._clock()
        if not re.fullmatch("[0-9]{1,12}", timestamp) or abs(now - int(timestamp)) > _FRESH_S:
            raise WebhookError(401, f"the delivery is not of the last {_FRESH_S} seconds; are both clocks right?")
        with self._one_at_a_time:
            while self._taken and (
                len(self._taken) >= _MOST_KEPT or next(iter(self._taken.values())) < now - 2 * _FRESH_S
            ):
                self._taken.popitem(last=False)
            if delivery in self._taken:
                raise WebhookError(409, "the delivery was taken before")
            self._taken[delivery] = now


def _told(body: bytes) -> NewVersion | None:
    try:
        event = json.loads(body)
        if (event["entity"], event["action"]) != ("model_version", "created"):
            return None
        model, version = event["data"]["name"], str(event["data"]["version"])
        if not _NAME.fullmatch(model) or not re.fullmatch("[0-9]{1,9}", version):
            raise WebhookError(400, "the delivery names no model and version")
    except (KeyError, TypeError, UnicodeDecodeError, RecursionError, json.JSONDecodeError) as error:
        raise WebhookError(400, f"the delivery is no event of a registry: {type(error).__name__}") from error
    return NewVersion(model, version)
