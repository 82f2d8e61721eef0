"""An artifact location behind HTTP or HTTPS, asked file by file with MLflow's own credentials and TLS settings.

1. Credentials go to the registry's own address and nowhere else, whatever address a version names as its source. What
   an address itself holds before its `@` is sent where it says.
2. A status that may pass (429, 500 and the like) and a connection that fails are a Cut: the same request may be made again.
   One that will not pass (401, 403, 404) is told at once.

MLflow 3.17's own server keeps to `Range`: a single range is answered 206 with `Content-Range` and the file's ETag, one
beyond the end 416 (tests/flows/test_server.py holds it). A server in front may not, and is then read from the start.
"""

from __future__ import annotations

import email.utils
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from registry.errors import MissingError, RegistryError, UnreachableError
from registry.patience import Cut, Patience
from registry.reaching import shown

if TYPE_CHECKING:
    from requests import Response

_PASSING = (408, 425, 429, 500, 502, 503, 504)
_RANGE = re.compile(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15}|\*)")


@dataclass(frozen=True)
class Answer:
    """A body that begins at byte `first` of the file and has `length` bytes, where the server says so."""

    response: Response
    first: int
    length: int | None
    total: int | None
    """Bytes of the whole file as the server has it."""


class Remote:
    """Files below an address."""

    def __init__(self, address: str, registry_uri: str, patience: Patience) -> None:
        self._address, self._patience = address.rstrip("/"), patience
        self.is_registry = _origin(address) is not None and _origin(address) == _origin(registry_uri)
        """Whether this is the registry's own address, and not another server's."""

    def ask(self, path: str, first: int = 0) -> Answer:
        """The file from byte `first` on, or from its start where the server knows no ranges.

        Raises Cut for what may pass, MissingError for a file that is not there, RegistryError for any other refusal.
        """
        headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={first}-"} if first else {})}
        response = self._request(path, headers)
        try:
            self._check(response, path)
            if response.status_code == 206:
                return _part(response, first)
            length = _length(response)
            return Answer(response, 0, length, length)
        except BaseException:
            response.close()
            raise

    def _request(self, path: str, headers: dict[str, str]) -> Response:
        from mlflow.exceptions import MlflowException
        from mlflow.utils.rest_utils import http_request
        from requests.exceptions import RequestException, SSLError

        try:
            response: Response = http_request(
                self._credentials(),
                f"/{quote(path)}",
                "GET",
                max_retries=0,
                retry_codes=(),
                timeout=(self._patience.connect_s, self._patience.read_s),
                raise_on_status=False,
                extra_headers=headers,
                stream=True,
            )  # type: ignore[no-untyped-call]
        except MlflowException as error:
            cause = error.__cause__ or error.__context__
            if isinstance(cause, SSLError):
                raise UnreachableError(
                    f"{shown(self._address)} is not trusted ({type(cause).__name__}); "
                    "name its certificate in MLFLOW_TRACKING_SERVER_CERT_PATH"
                ) from error
            if not isinstance(cause, RequestException):
                raise
            raise Cut(type(cause).__name__) from error
        return response

    def _credentials(self) -> Any:
        from mlflow.utils.credentials import get_default_host_creds

        found = get_default_host_creds(self._address)  # type: ignore[no-untyped-call]
        if not self.is_registry:
            found.username = found.password = found.token = found.auth = found.client_cert_path = None
            found.aws_sigv4 = False
        return found

    def _check(self, response: Response, path: str) -> None:
        status = response.status_code
        if status in (200, 206):
            if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                raise Cut("it sent compressed bytes, which were not asked for")
            return
        if status == 416:
            raise Cut("it has no bytes from there on", afresh=True)
        if status in _PASSING:
            raise Cut(f"status {status}", pause_s=_asked_pause_s(response))
        if status in (404, 410):
            raise MissingError(f"the registry no longer holds {path}: the version is not whole; pull another version")
        if status in (401, 403):
            rights = "check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
            elsewhere = "credentials are sent to the registry's own address only, and this is another"
            raise RegistryError(
                f"{shown(self._address)} refuses to send {path} (status {status}); "
                f"{rights if self.is_registry else elsewhere}"
            )
        raise RegistryError(f"{shown(self._address)} answers {path} with status {status}; check AMOEBA_MLFLOW_URI")


def _part(response: Response, first: int) -> Answer:
    """A range that begins where it was asked to; any other is a Cut, so that bytes are never mixed."""
    said = response.headers.get("Content-Range", "")
    found = _RANGE.fullmatch(said)
    if found is None or int(found[1]) != first or int(found[2]) < first or first == 0:
        raise Cut(f"it sent the range {said[:60]!r} where bytes from {first} on were asked for", afresh=True)
    total = None if found[3] == "*" else int(found[3])
    return Answer(response, first, int(found[2]) - first + 1, total)


def _length(response: Response) -> int | None:
    said = response.headers.get("Content-Length", "")
    return int(said) if re.fullmatch(r"\d{1,15}", said) else None


def _asked_pause_s(response: Response) -> float | None:
    """`Retry-After`, in seconds or as a date."""
    said = response.headers.get("Retry-After", "")
    if re.fullmatch(r"\d{1,9}", said):
        return float(said)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(said).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _origin(address: str) -> tuple[str, str, int | None] | None:
    """Scheme, host and port; None for what is no address of a server."""
    try:
        parts = urlsplit(address)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return None
    return (parts.scheme, parts.hostname, port) if parts.hostname else None
