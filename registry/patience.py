"""How long a transfer puts up with a server, and how it waits: every pause, every try and their sum are bounded."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, fields

from registry.errors import RegistryError


class Cut(Exception):  # noqa: N818
    """A transfer ended early and may go on, from where it was or, where `afresh`, from the file's start only."""

    def __init__(self, reason: str, *, pause_s: float | None = None, afresh: bool = False) -> None:
        super().__init__(reason)
        self.pause_s, self.afresh = pause_s, afresh


class Stopped(RegistryError):  # noqa: N818
    """Another file of the same pull failed first."""


@dataclass(frozen=True)
class Patience:
    """Limits of one transfer; tries and seconds count from the last time that it came forward by `forward_bytes`."""

    tries: int = 6
    seconds: float = 300
    forward_bytes: int = 1 << 16
    first_pause_s: float = 0.5
    most_pause_s: float = 20
    most_asked_pause_s: float = 60
    connect_s: float = 5
    read_s: float = 30
    stall_s: float = 30
    """A transfer that brings fewer than `stall_bytes` in so long is cut."""
    stall_bytes: int = 3000

    def __post_init__(self) -> None:
        for limit in fields(self):
            if getattr(self, limit.name) <= 0:
                raise ValueError(f"{limit.name} is above 0, got {getattr(self, limit.name)}")

    def pause_s(self, failures: int, asked_s: float | None) -> float:
        """Twice as long after every failure, shortened at random by up to half, so that many devices do not come at once."""
        if asked_s is not None:
            return min(asked_s, self.most_asked_pause_s)
        longest = min(self.most_pause_s, self.first_pause_s * 2.0 ** min(failures - 1, 30))
        return longest * random.uniform(0.5, 1)


class Tries:
    """The tries of one transfer."""

    def __init__(
        self,
        patience: Patience,
        wait: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._patience, self._wait, self._clock = patience, wait, clock
        self._failures, self._since, self._farthest = 0, clock(), 0

    def reached(self, place: int) -> None:
        """How far the file is: far enough beyond where it ever was, and patience starts anew."""
        if place >= self._farthest + self._patience.forward_bytes:
            self._failures, self._since, self._farthest = 0, self._clock(), place

    def again(self, cut: Cut) -> bool:
        """Whether there is another try, after a pause."""
        self._failures += 1
        pause_s = self._patience.pause_s(self._failures, cut.pause_s)
        if self._failures >= self._patience.tries:
            return False
        if self._clock() + pause_s - self._since > self._patience.seconds:
            return False
        self._wait(pause_s)
        return True


class Flow:
    """Notices a transfer that trickles: raises Cut when too little arrives for too long."""

    def __init__(self, patience: Patience, clock: Callable[[], float] = time.monotonic) -> None:
        self._patience, self._clock = patience, clock
        self._since, self._bytes = clock(), 0

    def brought(self, count: int) -> None:
        self._bytes += count
        now = self._clock()
        if now - self._since < self._patience.stall_s:
            return
        if self._bytes < self._patience.stall_bytes:
            raise Cut(f"only {self._bytes} bytes came in {now - self._since:.0f} seconds")
        self._since, self._bytes = now, 0
