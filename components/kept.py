"""What was computed once and is kept on disk: whole and unchanged, or computed again.

1. A folder gets its name only when it is whole: it is filled beside, hashed, and renamed.
2. What is found is hashed before it is used; what was damaged since is made again.
3. Whoever comes second waits for the first and finds what it made.
4. What a kill left beside is removed by the next who makes the same thing, or by `sweep`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from components.files import replace_text
from components.waiting import alone


def once(folder: Path, fill: Callable[[Path], None]) -> Path:
    """`folder`, filled by whoever comes first; raises what `fill` raises, and then has nothing under its name."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = _seal(folder)
    with alone(_lock(folder), f"{folder.parent.name}: it is being made already"):
        if folder.is_dir() and (not made.is_file() or made.read_text() != content_digest(folder)):
            shutil.rmtree(folder)
        if not folder.is_dir():
            with beside(folder) as half:
                fill(half)
                half.chmod(0o755)
                replace_text(made, content_digest(half))
                half.rename(folder)
        made.touch()
    return folder


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """An empty folder next to `path`, gone afterwards; what a kill left of one before goes first."""
    _remove_halves(path)
    half = Path(tempfile.mkdtemp(prefix=f".{path.name}.partial-", dir=path.parent))
    try:
        yield half
    finally:
        shutil.rmtree(half, ignore_errors=True)


def used_at(folder: Path) -> float:
    """When a folder was made, or last asked for where it was made `once`; seconds since the epoch."""
    seal = _seal(folder)
    return (seal if seal.is_file() else folder).stat().st_mtime


def forget(folder: Path) -> None:
    """Remove a folder that was made `once`, and what belongs to it; it is whole under its name, or not there."""
    with (
        alone(_lock(folder), f"{folder.parent.name}: it is being made"),
        beside(folder) as half,
        contextlib.suppress(FileNotFoundError),
    ):
        folder.rename(half / folder.name)
        _seal(folder).unlink(missing_ok=True)


def sweep(parent: Path) -> None:
    """Remove what killed makers left half made in `parent`, except where somebody is at it now."""
    for lock in parent.glob("*.lock"):
        with contextlib.suppress(Timeout), FileLock(lock, blocking=False):
            _remove_halves(lock.with_name(lock.name.removesuffix(".lock")))


def content_digest(folder: Path) -> str:
    """SHA-256 over every file's path and digest."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            total.update(f"{path.relative_to(folder)} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def keep(path: Path, value: Any) -> None:
    """Write a JSON value together with its digest."""
    value = json.loads(json.dumps(value))  # as it will be read: numbers that are keys are text by then
    replace_text(path, json.dumps({"sha256": _digest(value), "value": value}, indent=1) + "\n")


def kept(path: Path) -> Any | None:
    """What `keep` wrote; None where nothing is there, or not what was written."""
    try:
        found = json.loads(path.read_bytes())
        return found["value"] if found["sha256"] == _digest(found["value"]) else None
    except (FileNotFoundError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _seal(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.sha256")


def _lock(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def _remove_halves(path: Path) -> None:
    for half in path.parent.glob(f".{path.name}.partial-*"):
        shutil.rmtree(half, ignore_errors=True)
