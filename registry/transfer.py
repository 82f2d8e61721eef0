"""One file over HTTP into a place of its own: bounded, hashed as it arrives, taken up again after a cut.

1. Never a byte more than the manifest lists is written.
2. What a server says of the file's length must be the manifest's, before a byte is taken.
3. A file that is there in part is gone on with from its end, within a run and from run to run. Where the server does not
   send exactly from there on, the file is fetched from its start: bytes of two answers are joined only where they meet.
4. A file put together from several answers whose hash is wrong is fetched once more from its start. One that came whole,
   or came wrong twice, is damaged.
5. What was cut stays for the next run; what is damaged goes.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from registry.copying import write
from registry.errors import DamagedError, UnreachableError
from registry.following import Follower
from registry.manifest import FileEntry
from registry.patience import Cut, Flow, Patience, Stopped, Tries
from registry.remote import Answer, Remote

if TYPE_CHECKING:
    from requests import Response

_PIECE_BYTES = 1 << 20


class Transfer:
    """One file's way from `remote` to `path`, and the same bytes to `also`, so that they need not be copied there.

    `arrived` is told how many bytes came, or how many were given up (below 0). What is at `path` is gone on with.
    """

    _file: int
    _files: tuple[int, ...]
    _follower: Follower

    def __init__(
        self,
        remote: Remote,
        entry: FileEntry,
        path: Path,
        patience: Patience,
        arrived: Callable[[int], None] = lambda count: None,
        stop: threading.Event | None = None,
        also: Path | None = None,
    ) -> None:
        self._remote, self._entry, self._path, self._also, self._patience = remote, entry, path, also, patience
        self._arrived, self._stop = arrived, stop or threading.Event()
        self._done, self._joined = 0, False

    def run(self) -> None:
        """Raises DamagedError, UnreachableError or RegistryError; OSError for the disk's own trouble."""
        with contextlib.ExitStack() as opened:
            self._file = _open(self._path, opened)
            self._files = (self._file,)
            if self._also is not None:
                self._files += (_open(self._also, opened),)
                os.ftruncate(self._files[-1], 0)
            # Only what is to be placed must reach the disk; it is the last.
            self._follower = opened.enter_context(Follower(self._files[-1]))
            try:
                self._take_up()
                self._bring()
            except DamagedError:
                self._path.unlink(missing_ok=True)
                raise

    def _take_up(self) -> None:
        """Hash what an earlier run left."""
        if os.fstat(self._file).st_size > self._entry.size:
            self._start_over()
        while piece := os.read(self._file, _PIECE_BYTES):
            self._keep(piece, self._files[1:])
        self._joined = self._done > 0

    def _bring(self) -> None:
        self._arrive()
        given = self._follower.digest()
        if given != self._entry.sha256 and self._joined:
            self._start_over()
            self._arrive()
            given = self._follower.digest()
        if given != self._entry.sha256:
            wanted = f"the manifest says {self._entry.sha256[:12]}…; pull another version"
            raise DamagedError(f"the registry's {self._entry.path} has SHA-256 {given[:12]}…, {wanted}")

    def _arrive(self) -> None:
        """Bring all bytes, in as many tries as patience allows."""
        tries = Tries(self._patience, self._stop.wait)
        while self._done < self._entry.size:
            if self._stop.is_set():
                raise Stopped("stopped")
            try:
                answer = self._remote.ask(self._entry.path, self._done)
                with contextlib.closing(answer.response):
                    self._receive(answer, tries)
            except Cut as cut:
                if not tries.again(cut):
                    raise UnreachableError(
                        f"the registry stopped sending {self._entry.path} at {self._done} of {self._entry.size} bytes "
                        f"({cut}); check the server and run it again"
                    ) from cut
                if cut.afresh:
                    self._start_over()

    def _receive(self, answer: Answer, tries: Tries) -> None:
        if answer.total is not None and answer.total != self._entry.size:
            raise self._other_length(answer.total)
        if answer.first != self._done:
            self._start_over()
        self._joined = self._joined or self._done > 0
        end = self._entry.size if answer.length is None else answer.first + answer.length
        for piece in self._pieces(answer.response, end):
            if self._done + len(piece) > self._entry.size:
                raise self._other_length("more")
            if self._done + len(piece) > end:
                raise Cut("it sent more than the range it named", afresh=True)
            self._keep(piece, self._files)
            tries.reached(self._done)
        if self._done < self._entry.size:
            raise Cut("the connection ended")

    def _pieces(self, response: Response, end: int) -> Iterator[bytes]:
        """The body as it comes, one byte more than wanted at the most."""
        from urllib3.exceptions import HTTPError

        flow = Flow(self._patience)
        while True:
            if self._stop.is_set():
                raise Stopped("stopped")
            try:
                most = min(_PIECE_BYTES, end - self._done + 1)
                piece = response.raw.read1(most, decode_content=False)
            except (HTTPError, OSError) as error:
                raise Cut(type(error).__name__) from error
            if not piece:
                return
            yield piece
            flow.brought(len(piece))

    def _keep(self, piece: bytes, files: tuple[int, ...]) -> None:
        for file in files:
            write(file, piece)
        self._follower.note(piece)
        self._done += len(piece)
        self._arrived(len(piece))

    def _start_over(self) -> None:
        for file in self._files:
            os.ftruncate(file, 0)
            os.lseek(file, 0, os.SEEK_SET)
        self._arrived(-self._done)
        self._follower.restart()
        self._done, self._joined = 0, False

    def _other_length(self, given: int | str) -> DamagedError:
        return DamagedError(
            f"the registry's {self._entry.path} has {given} bytes, the manifest says {self._entry.size}; "
            "pull another version"
        )


def _open(path: Path, opened: contextlib.ExitStack) -> int:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    opened.callback(os.close, file)
    return file


def small(remote: Remote, path: str, most_bytes: int, patience: Patience) -> bytes:
    """A small file whose length is not known yet, in memory; raises DamagedError when it is empty or too large."""
    tries = Tries(patience, time.sleep)
    while True:
        try:
            answer = remote.ask(path)
            with contextlib.closing(answer.response):
                return _all_of(answer, path, most_bytes, Flow(patience))
        except Cut as cut:
            if not tries.again(cut):
                raise UnreachableError(
                    f"the registry does not send {path} ({cut}); check the server and run it again"
                ) from cut


def _all_of(answer: Answer, path: str, most_bytes: int, flow: Flow) -> bytes:
    from urllib3.exceptions import HTTPError

    content = b""
    try:
        while piece := answer.response.raw.read1(most_bytes + 1 - len(content), decode_content=False):
            content += piece
            flow.brought(len(piece))
            if len(content) > most_bytes:
                break
    except (HTTPError, OSError) as error:
        raise Cut(type(error).__name__) from error
    if not 0 < len(content) <= most_bytes:
        given = "more" if content else "no"
        raise DamagedError(f"the registry's {path} has {given} bytes, wanted 1 to {most_bytes}; pull another version")
    return content
