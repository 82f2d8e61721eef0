"""Files that are whole or not there, and the one error that every writer may meet: a full disk."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

_FULL = ("No space left on device", "disk is full", "Disk quota exceeded", "os error 28")


def replace_text(path: Path, text: str) -> None:
    """Write beside `path`, sync, then rename over it: a kill or a full disk leaves what was there.

    Two writers at once come one after the other, and what a kill left beside is written over by the next.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.partial")
    with _alone(beside) as file:
        try:
            file.truncate(0)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            beside.replace(path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise


@contextmanager
def _alone(path: Path) -> Iterator[TextIO]:
    """The file `path`, locked; a lock that was waited for is of a file that has another name by now, so it is asked again."""
    while True:
        with path.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                current = path.stat().st_ino
            except FileNotFoundError:
                continue
            if current == os.fstat(file.fileno()).st_ino:
                yield file
                return


def disk_ran_full(error: BaseException) -> bool:
    """Whether a full disk is behind this error, however the library that met it worded that."""
    return any(
        (isinstance(one, OSError) and one.errno in (errno.ENOSPC, errno.EDQUOT))
        or any(words in str(one) for words in _FULL)
        for one in _chain(error)
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
