"""Work that is done in a process of its own, and named by what decided it."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import deque
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from components import messages
from components.progress import say
from components.waiting import alone
from flows.settings import settings
from flows.workers import HungError, run


class JobError(Exception):
    """A target's job failed; nothing of it was published."""


class LostWorkerError(JobError):
    """A job's process was killed, or hung until it was: the same may succeed another time."""


def run_apart(arguments: list[str], what: str, python: str | Path = sys.executable) -> None:
    """Run in a process of its own, its standard error passed on line by line.

    Raises JobError with its last words, LostWorkerError where it had none to say.
    """
    say(what)
    kept: deque[str] = deque(maxlen=50)

    def hear(line: str) -> None:
        words = messages.words(line).rstrip()
        if words:
            kept.append(words)
            if not words.startswith("error: "):
                sys.stderr.write(messages.passed_on(line))

    try:
        status = run([str(python), "-m", "edge_targets", *arguments], hear)
    except HungError as error:
        raise LostWorkerError(f"{what} failed: {error}") from error
    if status < 0:
        raise LostWorkerError(
            f"{what} failed: its process was killed by signal {-status}"
            + (", as the system does when memory runs out" if status == -9 else "")
        )
    if status != 0:
        reason = next((line.removeprefix("error: ") for line in reversed(kept) if line.startswith("error: ")), None)
        raise JobError(f"{what} failed: {reason or ' / '.join(list(kept)[-3:]) or f'exit {status}'}")


def undisturbed() -> AbstractContextManager[None]:
    """Held while times are taken, so that nothing else of this workspace that takes some disturbs the clock; who waits says so."""
    return alone(settings().cache / "measuring.lock", "something else is being measured")


def key_of(facts: dict[str, Any]) -> str:
    """A short name for whatever these facts decide."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
