"""Progress of long work: lines on standard error that say what is done and how long the rest will take."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from components import messages

_SAY_EVERY_S = 5.0


def say(line: str, **fields: Any) -> None:
    """One line on standard error; `fields` are figures that a program reads, where lines are JSON."""
    sys.stderr.write(messages.line(line, **fields) + "\n")
    sys.stderr.flush()


def progress(what: str) -> Callable[[int, int], None]:
    """A line on standard error every few seconds: what is done and how long the rest will take."""
    started = last = time.monotonic()
    first: tuple[int, float] | None = None

    def advance(done: int, total: int) -> None:
        nonlocal last, first
        now = time.monotonic()
        first = first or (done, now)
        if done >= total:
            say(f"{what}: {done}/{total}, {now - started:.0f} s", done=done, total=total)
        elif now - last >= _SAY_EVERY_S:
            last = now
            steps, seconds = done - first[0], now - first[1]
            left = f", about {seconds / steps * (total - done):.0f} s left" if steps else ""
            say(f"{what}: {done}/{total}{left}", done=done, total=total)

    return advance


def progress_of(stage: str) -> Callable[[str, int, int], None]:
    """The same for a stage of several parts, each named as it starts."""
    parts: dict[str, Callable[[int, int], None]] = {}

    def advance(what: str, done: int, total: int) -> None:
        parts.setdefault(what, progress(f"{stage}: {what}"))(done, total)

    return advance
