"""All files of a manifest into one folder: from what this machine has already, and the rest from the registry.

1. Every file is bounded and hashed as it is written, wherever it comes from.
2. What the destination, its previous or the shelf has is not fetched.
3. Several files at once, the largest first; the first error ends the others.
4. The room on the disk is looked at before a byte is fetched.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Iterable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path

from registry.artifacts import Artifacts
from registry.copying import copy
from registry.errors import DamagedError, NoSpaceError, RefusedError
from registry.manifest import FileEntry, Manifest, read_manifest
from registry.patience import Stopped
from registry.progress import Progress
from registry.shelf import Shelf

_AT_ONCE = 4
_SPARE_BYTES = 64 << 20


class Fetching:
    """One manifest's files on their way to `folder`; `around` are pulled folders that may hold some of them."""

    def __init__(
        self,
        artifacts: Artifacts,
        manifest: Manifest,
        folder: Path,
        around: Iterable[Path],
        shelf: Shelf | None,
        progress: Progress,
    ) -> None:
        self._artifacts, self._manifest, self._folder = artifacts, manifest, folder
        self._around = _files_of(around)
        self._shelf, self._shares = None if artifacts.is_near else shelf, False
        self._progress, self._done, self._counting = progress, 0, threading.Lock()
        self._stop = threading.Event()

    def run(self) -> None:
        """Raises what the first file that failed raised, or NoSpaceError."""
        for entry in self._manifest.files:
            (self._folder / entry.path).parent.mkdir(parents=True, exist_ok=True)
        missing = [entry for entry in self._manifest.files if not self._find(entry)]
        self._check_space(sum(entry.size for entry in missing))
        self._fetch_all(sorted(missing, key=lambda entry: -entry.size))
        if self._shelf is not None:
            self._shelf.trim()

    def _find(self, entry: FileEntry) -> bool:
        """Copy a file that this machine has."""
        to = self._folder / entry.path
        known = self._around.get(entry.sha256)
        found = (known is not None and copy(known, entry, to)) or (
            self._shelf is not None and self._shelf.take(entry, to)
        )
        if found:
            self._count(entry.size)
        return found

    def _fetch_all(self, missing: list[FileEntry]) -> None:
        with ThreadPoolExecutor(_AT_ONCE, "pull") as pool:
            running = [pool.submit(self._fetch, entry) for entry in missing]
            try:
                wait(running, return_when=FIRST_EXCEPTION)
            finally:
                self._stop.set()
                pool.shutdown(cancel_futures=True)
        _raise_first(running)

    def _fetch(self, entry: FileEntry) -> None:
        to, came = self._folder / entry.path, 0

        def arrived(count: int) -> None:
            nonlocal came
            came += count
            self._count(count)

        def bring(path: Path) -> None:
            self._artifacts.bring(entry, path, arrived, self._stop, None if self._shares or path == to else to)

        try:
            if self._shelf is not None and self._shelf.fetch(entry, to, bring, self._stop):
                arrived(entry.size - came)
                return
            arrived(-came)
            to.unlink(missing_ok=True)
            bring(to)
        except BaseException:
            self._stop.set()
            raise

    def _count(self, count: int) -> None:
        if count:
            with self._counting:
                self._done += count
                self._progress(self._done, self._manifest.size)

    def _check_space(self, to_fetch: int) -> None:
        """The shelf is done without where both do not fit."""
        if self._shelf is not None:
            self._shares = self._shelf.shares_with(self._folder)
            if not self._shelf.has_room(to_fetch, (0 if self._shares else to_fetch) + _SPARE_BYTES):
                self._shelf = None
        needed, free = to_fetch + _SPARE_BYTES, shutil.disk_usage(self._folder).free
        if free < needed:
            raise NoSpaceError(
                f"{self._manifest.model} needs {needed / 1e6:.0f} MB at {self._folder.parent}, "
                f"{free / 1e6:.0f} MB are free; make room or choose another --to"
            )


def _files_of(folders: Iterable[Path]) -> dict[str, Path]:
    """Where pulled folders say that a file of a digest is; it is hashed when it is taken."""
    found: dict[str, Path] = {}
    for folder in folders:
        with contextlib.suppress(DamagedError, RefusedError, OSError):
            found.update((entry.sha256, folder / entry.path) for entry in read_manifest(folder).files)
    return found


def _raise_first(futures: list[Future[None]]) -> None:
    """What went wrong, rather than what was stopped by it."""
    errors = [error for future in futures if not future.cancelled() and (error := future.exception()) is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, Stopped)):
        raise error
