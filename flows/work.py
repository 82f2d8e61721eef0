"""Work that is done once, in a process of its own, and named by what decided it.

An outcome's folder gets its name only when it is whole; the name is the digest of everything that decides its bytes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from components.progress import say


class JobError(Exception):
    """A target's job failed; nothing of it was published."""


def run_apart(arguments: list[str], what: str, python: str | Path = sys.executable) -> None:
    """Run in a process of its own, its standard error passed on line by line; raises JobError with its last words."""
    say(what)
    command = [str(python), "-m", "edge_targets", *arguments]
    kept: deque[str] = deque(maxlen=50)
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        for line in filter(str.strip, process.stderr):
            kept.append(line.rstrip())
            if not line.startswith("error: "):
                sys.stderr.write(line)
    if process.returncode != 0:
        reason = next((line.removeprefix("error: ") for line in reversed(kept) if line.startswith("error: ")), None)
        raise JobError(f"{what} failed: {reason or ' / '.join(list(kept)[-3:]) or f'exit {process.returncode}'}")


def once(folder: Path, fill: Callable[[Path], None]) -> Path:
    """`folder`, filled beside and renamed when it is whole; whoever comes second waits and finds it.

    What is found must still hash to what was made; a folder that was damaged since is made again.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = folder.with_suffix(".sha256")
    with FileLock(folder.with_suffix(".lock")):
        if folder.is_dir() and (not made.is_file() or made.read_text() != content_digest(folder)):
            shutil.rmtree(folder)
        if not folder.is_dir():
            with _beside(folder) as half:
                fill(half)
                half.chmod(0o755)
                made.write_text(content_digest(half))
                half.rename(folder)
    return folder


def content_digest(folder: Path) -> str:
    """SHA-256 over every file's path and digest."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            total.update(f"{path.relative_to(folder)} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


@contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    half = Path(tempfile.mkdtemp(prefix=f".{folder.name}.partial-", dir=folder.parent))
    try:
        yield half
    finally:
        if half.is_dir():
            shutil.rmtree(half, ignore_errors=True)


def key_of(facts: dict[str, Any]) -> str:
    """A short name for whatever these facts decide."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
