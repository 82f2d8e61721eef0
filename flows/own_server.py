"""A Prefect server of the workspace's own, which ends with the process that started it, even where that is killed.

Whoever may call it decides what the service runs, and every user of a machine reaches its ports: it asks for a password.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from flows.settings import settings
from registry.keys import write_new
from registry.reaching import shown

_START_S, _STOP_S, _ANSWER_S = 600, 5, 10
_OF_COMMAND = contextlib.ExitStack()
"""What lasts as long as this process."""


class ServiceError(Exception):
    """The service cannot start; the message says why."""


@contextlib.contextmanager
def prefect_server() -> Iterator[bool]:
    """PREFECT_API_URL names a server inside: the one that was set, or a new one; whether it is a new one.

    A new one's password is in PREFECT_API_AUTH_STRING, and for the same user's other processes in `password` of its folder.
    Prefect must not be imported before. Raises ServiceError.
    """
    if os.environ.get("PREFECT_API_URL"):
        given_server()
        yield False
        return
    home = settings().home / "prefect"
    home.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(home / "serve.lock", timeout=0):
            password = _new_password(home / "password")
            with running(home / "server.log", PREFECT_SERVER_API_AUTH_STRING=password) as address:
                os.environ |= {"PREFECT_API_URL": address, "PREFECT_API_AUTH_STRING": password}
                yield True
    except Timeout:
        raise ServiceError("this workspace is served by another process already") from None


def serve_this_command() -> None:
    """From now on PREFECT_API_URL names a server: the one that was set, or a new one that ends with this process.

    Prefect's own would be in the terminal's process group, and end before the flow that Ctrl-C ends; it asks for no password, too.
    Prefect must not be imported before. Raises ServiceError.
    """
    if os.environ.get("PREFECT_API_URL"):
        given_server()
        return
    home, password = settings().home / "prefect", _password()
    home.mkdir(parents=True, exist_ok=True)
    of_command = {"PREFECT__SERVER_EPHEMERAL": "1", "PREFECT_SERVER_API_AUTH_STRING": password}
    address = _OF_COMMAND.enter_context(running(home / "command.log", **of_command))
    os.environ |= {"PREFECT_API_URL": address, "PREFECT_API_AUTH_STRING": password}


def _new_password(kept: Path) -> str:
    password = _password()
    kept.unlink(missing_ok=True)
    write_new(kept, password.encode(), 0o600)
    return password


def _password() -> str:
    return f"amoeba:{secrets.token_hex(24)}"


def given_server() -> str:
    """The address in PREFECT_API_URL; raises ServiceError where there is none or nothing answers there."""
    import requests

    address = os.environ.get("PREFECT_API_URL")
    if not address:
        raise ServiceError("PREFECT_API_URL is not set: the address of a Prefect server")
    try:
        requests.get(f"{address.rstrip('/')}/health", timeout=_ANSWER_S)
    except requests.RequestException as error:
        raise ServiceError(
            f"the Prefect server at {shown(address)} does not answer ({type(error).__name__}); check PREFECT_API_URL and the server"
        ) from error
    return address


@contextlib.contextmanager
def running(log: Path, **environment: str) -> Iterator[str]:
    """A new server, its output in `log`; its address. Raises ServiceError."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "flows.own_server", str(port)]
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env=os.environ | environment,
            start_new_session=True,  # Ctrl-C is for the flow, which still has something to tell its server
        ) as server,
    ):
        try:
            _await(f"http://127.0.0.1:{port}/api", server, log)
            yield f"http://127.0.0.1:{port}/api"
        finally:
            server.terminate()


def _await(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    import requests

    until = time.monotonic() + _START_S
    while time.monotonic() < until and server.poll() is None:
        with contextlib.suppress(requests.RequestException):
            if requests.get(f"{address}/health", timeout=5).ok:
                return
        time.sleep(0.2)
    raise ServiceError(f"the Prefect server did not start; {log} says why")


def _end_with_parent() -> None:
    """The pipe from whoever started this closes when that process ends, whichever way."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


def main(port: int) -> None:
    os.environ["PREFECT_UI_ENABLED"] = "false"
    import uvicorn

    threading.Thread(target=_end_with_parent, daemon=True).start()
    uvicorn.run(
        "prefect.server.api.server:create_app",
        factory=True,
        host="127.0.0.1",
        port=port,
        log_level="warning",
        timeout_graceful_shutdown=_STOP_S,
    )


if __name__ == "__main__":
    main(int(sys.argv[1]))
