"""Waiting for another process, and saying so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from components.progress import say

_SAY_EVERY_S = 60.0


@contextmanager
def alone(path: Path, taken: str, say_every_s: float = _SAY_EVERY_S) -> Iterator[None]:
    """Hold the lock at `path`; where another process or thread has it, say what is `taken`, wait, and say so again and again.

    A lock ends with its holder, however that ends. The same thread may take it twice.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, is_singleton=True)
    timeout_s = 0.0
    while True:
        try:
            lock.acquire(timeout=timeout_s)
            break
        except Timeout:
            say(f"{taken}; waiting")
            timeout_s = say_every_s
    try:
        yield
    finally:
        lock.release()
