"""The shelf: files by their SHA-256 in a folder of the user's, so that what was fetched once is not fetched again.

1. Nothing on the shelf is trusted: a file is hashed again whenever it is taken, and one that is damaged goes. So what is put
   there needs no fsync; what a power cut took is fetched again.
2. A file gets its name only when its hash is right. What a cut left of one is kept, and gone on with by the next run.
3. Processes at once are safe: one file is fetched by one of them, under a lock that ends with the process; the others wait
   while it grows. 256 lock files serve all.
4. It has a bound: the files used longest ago go first, and halves of a week ago.
5. It is only ever a help. A shelf that cannot be used (read-only, full, someone else's folder) is told of once and done
   without. A folder that holds other things than a shelf is someone else's, wherever a link leads.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from registry.copying import can_clone, copy
from registry.errors import RegistryError
from registry.manifest import FileEntry
from registry.patience import Stopped

_log = logging.getLogger(__name__)
_TAG_FILE = "CACHEDIR.TAG"
_TAG = "Signature: 8a477f597d28d172789f06886806bc55\n# Files of Amoeba Edge by their SHA-256; safe to remove.\n"
_DIGEST = re.compile("[0-9a-f]{64}")
_OLD_SECONDS = 7 * 24 * 3600


class ShelfError(Exception):
    """The shelf cannot be used."""


class Shelf:
    """A folder of files by digest, of `most_bytes` at the most; `patience_s` is how long another's fetch may stand still."""

    def __init__(self, folder: Path, most_bytes: int, patience_s: float = 60) -> None:
        self.folder, self._most_bytes, self._patience_s = folder, most_bytes, patience_s
        self._files, self._halves, self._locks = folder / "files", folder / "halves", folder / "locks"
        self._usable: bool | None = None

    def take(self, entry: FileEntry, to: Path) -> bool:
        """Copy a file from the shelf to `to`; False where it has none that is right. Raises OSError for `to`."""
        kept = self._files / entry.sha256
        if not self._ready() or not os.path.lexists(kept):
            return False
        if not copy(kept, entry, to):
            with self._spared():
                kept.unlink(missing_ok=True)
            return False
        with self._spared(), contextlib.suppress(FileNotFoundError):  # trimmed by another process meanwhile
            os.utime(kept)
        return True

    def fetch(self, entry: FileEntry, to: Path, bring: Callable[[Path], None], stop: threading.Event) -> bool:
        """Have `bring` fetch a file onto the shelf, or wait for who does, and copy it to `to`; False where that fails.

        Where `bring` has filled `to` as well, that is not copied. What it raises of the registry's is raised here, and
        Stopped where `stop` is set first.
        """
        if not self._ready():
            return False
        kept, half = self._files / entry.sha256, self._halves / entry.sha256
        with self._spared():
            with self._alone(entry.sha256, stop):
                if not kept.exists():
                    self._bring(bring, half, kept)
            return to.exists() or self.take(entry, to)
        return False

    def shares_with(self, folder: Path) -> bool:
        """Whether a file on the shelf and one in `folder` can share their blocks."""
        return self._ready() and can_clone(self._halves, folder)

    def _bring(self, bring: Callable[[Path], None], half: Path, kept: Path) -> None:
        try:
            bring(half)
            half.replace(kept)
        except OSError:
            half.unlink(missing_ok=True)  # the disk may be full, and only of this
            raise

    def has_room(self, kept: int, others: int = 0) -> bool:
        """Whether so many bytes may be kept, and fit on the disk with `others` that it must take."""
        if kept > self._most_bytes or not self._ready():
            return False
        with self._spared():
            return shutil.disk_usage(self.folder).free > kept + others
        return False

    def trim(self) -> None:
        """Remove what was used longest ago until the rest is within the bound."""
        if not self._ready():
            return
        with self._spared():
            known = sorted(self._known(), key=lambda item: item[1].st_mtime)
            excess = sum(facts.st_size for _, facts in known) - self._most_bytes
            for path, facts in known:
                is_old = path.parent == self._halves and time.time() - facts.st_mtime > _OLD_SECONDS
                if (excess > 0 or is_old) and self._remove(path):
                    excess -= facts.st_size

    def _known(self) -> Iterator[tuple[Path, os.stat_result]]:
        for folder in (self._files, self._halves):
            for path in folder.iterdir():
                with contextlib.suppress(FileNotFoundError):
                    yield path, path.lstat()

    def _remove(self, path: Path) -> bool:
        """Unless someone is at it."""
        try:
            with FileLock(self._lock_of(path.name), timeout=0):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
        except Timeout:
            return False
        return True

    @contextlib.contextmanager
    def _alone(self, digest: str, stop: threading.Event) -> Iterator[None]:
        """Hold a digest's lock; raises ShelfError where who holds it, for this file or another, brings no more for `patience_s`."""
        lock, size, since = FileLock(self._lock_of(digest)), -1, time.monotonic()
        while True:
            try:
                lock.acquire(timeout=0.2)
                break
            except Timeout:
                if stop.is_set():
                    raise Stopped("stopped") from None
                before, size = size, self._brought(digest)
                if size != before:
                    since = time.monotonic()
                elif time.monotonic() - since > self._patience_s:
                    raise ShelfError("another process holds a file and does not go on") from None
        try:
            yield
        finally:
            lock.release()

    def _brought(self, digest: str) -> int:
        """Bytes of the files that are being fetched under a digest's lock."""
        sizes = 0
        for half in self._halves.glob(f"{digest[:2]}*"):
            with contextlib.suppress(FileNotFoundError):
                sizes += half.lstat().st_size
        return sizes

    def _lock_of(self, name: str) -> Path:
        return self._locks / f"{name[:2] if _DIGEST.fullmatch(name) else 'other'}.lock"

    def _ready(self) -> bool:
        """Make the folders at first use."""
        if self._usable is None:
            self._usable = True
            with self._spared():
                self._make()
        return self._usable

    def _make(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        tag = self.folder / _TAG_FILE
        if not tag.is_file():
            if any(path.name not in ("files", "halves", "locks", _TAG_FILE) for path in self.folder.iterdir()):
                raise ShelfError("it holds other files")
            tag.write_text(_TAG)
        if not _TAG.startswith(tag.read_text(errors="replace")):  # another process may be writing it
            raise ShelfError("it is another program's")
        for folder in (self._files, self._halves, self._locks):
            folder.mkdir(mode=0o700, exist_ok=True)
        for folder in (self.folder.resolve(), self._files, self._halves, self._locks):
            facts = folder.lstat()
            if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid() or facts.st_mode & 0o002:
                raise ShelfError(f"{folder} is a link, another user's, or anyone may write it")
            if not os.access(folder, os.W_OK):
                raise ShelfError("it cannot be written")

    @contextlib.contextmanager
    def _spared(self) -> Iterator[None]:
        """Go on without the shelf, for good, when it fails; what the registry raises is no trouble of the shelf's."""
        try:
            yield
        except RegistryError:
            raise
        except (OSError, ShelfError) as error:
            self._usable = False
            _log.warning("the cache at %s is done without: %s; AMOEBA_CACHE names another", self.folder, error)
