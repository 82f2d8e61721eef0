"""What a service holds, seen from outside: memory, open files and threads of its processes, and bytes on disk."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

SERVICE, SERVER, OTHERS = "serve", "Prefect server", "others"
_SERVER_MODULE = "flows.own_server"


def footprint(service: int) -> dict[str, float]:
    """Figures of the service's process, its Prefect server and all other processes below it, by name."""
    held: dict[str, float] = {"processes": 0, "zombies": 0}
    for role, process in _family(service):
        with contextlib.suppress(psutil.NoSuchProcess):
            held["processes"] += 1
            if process.status() == psutil.STATUS_ZOMBIE:
                held["zombies"] += 1
                continue
            with process.oneshot():
                figures = {
                    "memory_mb": process.memory_info().rss / 1e6,
                    "open_files": process.num_fds(),
                    "threads": process.num_threads(),
                }
            for name, value in figures.items():
                held[f"{role}: {name}"] = held.get(f"{role}: {name}", 0) + value
    return held


def disk(parts: Mapping[str, Path]) -> dict[str, float]:
    """Megabytes of each part, a file or a folder; 0 for what is not there."""
    return {name: sum(map(_size, _files(place))) / 1e6 for name, place in parts.items()}


def _family(service: int) -> Iterator[tuple[str, psutil.Process]]:
    root = psutil.Process(service)
    yield SERVICE, root
    for child in root.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            yield SERVER if _SERVER_MODULE in child.cmdline() else OTHERS, child


def _files(place: Path) -> Iterator[Path]:
    if place.is_dir():
        yield from (path for path in place.rglob("*") if not path.is_dir())
    elif place.exists():
        yield place


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0
