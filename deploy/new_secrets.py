"""Print deploy/example.env with every secret made anew: `umask 077 && python deploy/new_secrets.py > deploy/.env`.

What is not made here, names of hosts and where backups go, is left as it is, to be filled in. Needs Python alone.
"""

from __future__ import annotations

import base64
import secrets
import sys
from collections.abc import Callable
from pathlib import Path

EXAMPLE = Path(__file__).with_name("example.env")


def _word() -> str:
    """192 bits; letters and digits only, since some of them stand in addresses and in files of their own grammar."""
    return secrets.token_hex(24)


MADE: dict[str, Callable[[], str]] = {
    "POSTGRES_PASSWORD": _word,
    "MLFLOW_DATABASE_PASSWORD": _word,
    "PREFECT_DATABASE_PASSWORD": _word,
    "MLFLOW_ADMIN_PASSWORD": _word,
    "MLFLOW_BUILDER_PASSWORD": _word,
    "MLFLOW_DEVICE_PASSWORD": _word,
    "MLFLOW_FLASK_SERVER_SECRET_KEY": _word,
    "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": lambda: base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
    "PREFECT_AUTH_STRING": lambda: f"amoeba:{_word()}",
    "STORE_ACCESS_KEY_ID": lambda: secrets.token_hex(10),
    "STORE_SECRET_ACCESS_KEY": _word,
    "STORE_SIGNING_KEY": _word,
}


def filled(example: str) -> str:
    """The same lines, each empty one of a secret with a value."""
    lines = []
    for line in example.splitlines():
        name, equals, value = line.partition("=")
        lines.append(f"{name}={MADE[name]()}" if equals and not value and name in MADE else line)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(filled(EXAMPLE.read_text()))
