"""What a line on standard error says beside its words: when, and of which run, base, target and step.

Lines are for people, unless `AMOEBA_LOG` is `json`: then each is one JSON object. What they are about reaches worker processes in
their environment, through DVC and shells too.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

FORM = "AMOEBA_LOG"
ABOUT = "AMOEBA_ABOUT"
"""What a worker's lines are about, as JSON."""
_here: ContextVar[Mapping[str, str]] = ContextVar("about")


def about() -> dict[str, str]:
    """What is known of the work at hand: of `run`, `base`, `target` and `step` those that are."""
    known: dict[str, str] = json.loads(os.environ.get(ABOUT, "{}"))
    return {**known, **_here.get({})}


@contextmanager
def telling(**known: str | None) -> Iterator[None]:
    """Lines inside are about these too; what is None stays as it was."""
    before = _here.set({**_here.get({}), **{name: value for name, value in known.items() if value}})
    try:
        yield
    finally:
        _here.reset(before)


def reaches(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment in which a worker's lines are about what this process's are about."""
    return {**environment, ABOUT: json.dumps(about())}


def are_json() -> bool:
    return os.environ.get(FORM) == "json"


def line(message: str, **fields: Any) -> str:
    """A message in the form that was asked for, without an end of line."""
    if not are_json():
        return message
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    told = {"time": now, "message": message, **about(), "process": os.getpid(), **fields}
    return json.dumps(told, ensure_ascii=False)


def words(said: str) -> str:
    """The message of a worker's line, whichever form that has."""
    told = _told(said)
    return said if told is None else str(told["message"])


def passed_on(said: str) -> str:
    """A worker's line as this process says it: its own form is kept, a library's words are given the one that was asked for."""
    if not are_json() or _told(said) is not None:
        return said
    return line(said.rstrip()) + "\n" if said.strip() else ""


def _told(said: str) -> dict[str, Any] | None:
    """A line that is a message in JSON; None for any other."""
    if not (are_json() and said.startswith("{")):
        return None
    try:
        told = json.loads(said)
    except ValueError:
        return None
    return told if isinstance(told, dict) and "message" in told else None


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return line(super().format(record), logger=record.name, level=record.levelname.lower())


def take_library_logs() -> None:
    """Where lines are JSON, what libraries of this process log and warn of is JSON as well."""
    if are_json():
        handler = logging.StreamHandler()
        handler.setFormatter(_Lines())
        logging.basicConfig(handlers=[handler], force=True)
        logging.captureWarnings(True)
