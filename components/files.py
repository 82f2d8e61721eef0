"""Files that are whole or not there, and the one error that every writer may meet: a full disk."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

_FULL = ("No space left on device", "disk is full", "Disk quota exceeded", "os error 28")


def replace_text(path: Path, text: str) -> None:
    """Write beside `path`, sync, then rename over it: a kill or a full disk leaves what was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.partial")
    try:
        with beside.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


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
