"""What stopped publishers left: uploads that became no version. Found, told, and removed when asked to.

An upload is left alone until its run's latest is `hours` old: its publisher may still be at it, in a run that one who was
killed began.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

from registry.server import UPLOAD_TAG, Server

_PLACE = re.compile(r"artifact-[0-9a-f]{16}")


@dataclass(frozen=True)
class Leftover:
    """An upload under a run, which no version points to."""

    run_id: str
    place: str
    age_hours: float
    size: int
    """Bytes."""
    source: str


def leftovers(server: Server, hours: float = 24.0) -> tuple[Leftover, ...]:
    """Every upload without a version, in runs that began none for `hours`; none where nothing was ever published."""
    with server.reaching():
        kept = server.sources()
        return tuple(found for found in _uploads(server) if found.source not in kept and found.age_hours >= hours)


def remove(server: Server, found: Leftover) -> None:
    """Remove an upload that `leftovers` found, unless a version points to it by now."""
    with server.reaching():
        if found.source in server.sources():
            return
        server.artifacts(found.source.rpartition("/")[0]).remove(found.place)


def _uploads(server: Server) -> Iterator[Leftover]:
    now_ms = time.time() * 1000
    for run in server.runs():
        noted = run.data.tags.get(UPLOAD_TAG, "")
        began_ms = max(run.info.start_time, int(noted) if re.fullmatch("[0-9]{1,15}", noted) else 0)
        age_hours = (now_ms - began_ms) / 3.6e6
        artifacts = server.artifacts(run.info.artifact_uri)
        for place in artifacts.folders():
            if _PLACE.fullmatch(place):
                source = f"{run.info.artifact_uri}/{place}"
                yield Leftover(run.info.run_id, place, age_hours, artifacts.size(place), source)
