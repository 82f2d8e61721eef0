"""A file's bytes from one place of this machine to another, hashed on the way: never a link, which a manifest refuses."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
import tempfile
from pathlib import Path

from registry.manifest import FileEntry

_PIECE_BYTES = 1 << 20
_FICLONE = 0x40049409
"""Linux's request to share a file's blocks until one of both is written (`ioctl_ficlone(2)`)."""


def copy(source: Path, entry: FileEntry, to: Path) -> bool:
    """Copy `source` to the new file `to` when it is the entry's bytes; False, and no file, when it is not.

    What is compared is what was written. Where the file system can, both share their blocks. Raises OSError when `to`
    cannot be written.
    """
    try:
        reading = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        facts = os.fstat(reading)
        if not stat.S_ISREG(facts.st_mode) or facts.st_size != entry.size:
            return False
        writing = os.open(to, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            right = _fill(reading, writing, entry) == entry.sha256
        except BaseException:
            to.unlink(missing_ok=True)
            raise
        finally:
            os.close(writing)
        if not right:
            to.unlink()
        return right
    finally:
        os.close(reading)


def can_clone(one: Path, other: Path) -> bool:
    """Whether a file of one folder and one of the other can share blocks."""
    with contextlib.suppress(OSError), tempfile.TemporaryFile(dir=one) as source:
        source.write(b"x" * 4096)
        source.flush()
        with tempfile.TemporaryFile(dir=other) as copied:
            return _clone(source.fileno(), copied.fileno())
    return False


def _fill(reading: int, writing: int, entry: FileEntry) -> str:
    """The digest of what `writing` then holds; a file that grows meanwhile is read no further than the entry's size."""
    hashed, left = hashlib.sha256(), entry.size
    cloned = _clone(reading, writing)
    while left and (piece := os.read(writing if cloned else reading, min(left, _PIECE_BYTES))):
        hashed.update(piece)
        left -= len(piece)
        if not cloned:
            write(writing, piece)
    return hashed.hexdigest()


def write_new(path: Path, content: bytes) -> None:
    """A file of these bytes, which was not there."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        write(file, content)
    finally:
        os.close(file)


def write(file: int, piece: bytes) -> None:
    """All of it, in as many calls as it takes."""
    view = memoryview(piece)
    while view:
        view = view[os.write(file, view) :]


def _clone(reading: int, writing: int) -> bool:
    try:
        fcntl.ioctl(writing, _FICLONE, reading)
    except OSError:
        return False
    return True
