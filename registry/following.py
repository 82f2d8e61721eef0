"""What is done with bytes behind their arrival, in a thread of its own: hashing, and bringing them onto the disk.

Both let other threads run meanwhile, so that the network does not wait for them.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

_MOST_WAITING = 32
_SYNC_BYTES = 16 << 20


class Follower:
    """The hash of what was written to `file` so far."""

    def __init__(self, file: int) -> None:
        self._file, self._hash, self._unsynced = file, hashlib.sha256(), 0
        self._pool = ThreadPoolExecutor(1, "follow")
        self._waiting: deque[Future[Any]] = deque()

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *raised: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def note(self, piece: bytes) -> None:
        """Bytes that were written; raises OSError where earlier ones did not reach the disk."""
        self._do(self._hash.update, piece)
        self._unsynced += len(piece)
        if self._unsynced >= _SYNC_BYTES:
            self._unsynced = 0
            self._do(os.fsync, self._file)

    def restart(self) -> None:
        """Forget what was noted."""
        self._finish(0)
        self._hash, self._unsynced = hashlib.sha256(), 0

    def digest(self) -> str:
        """SHA-256 of all that was noted, once it is on the disk."""
        self._do(os.fsync, self._file)
        self._finish(0)
        return self._hash.hexdigest()

    def _do(self, work: Callable[[Any], object], subject: Any) -> None:
        self._waiting.append(self._pool.submit(work, subject))
        self._finish(_MOST_WAITING)

    def _finish(self, most: int) -> None:
        while len(self._waiting) > most:
            self._waiting.popleft().result()
