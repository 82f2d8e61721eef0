"""What may go wrong while a device pulls, each case many times.

After every fault:

1. A reader finds the old folder whole or the new one whole. A pull killed between two renames leaves none for as long as it
   is not run again, and the old one whole beside.
2. The same pull, run again without the fault, ends with the new folder whole.
3. Nothing is left that would grow: beside the folder there is its previous and nothing else, and no half is on the shelf.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from faults.forking import STEPS
from faults.pulling_process import Pull, pull, pullers
from faults.tally import Run
from fixtures.artifact_server import ArtifactServer, serving
from fixtures.artifacts import beside, flip, write_artifact

from registry import placing
from registry.errors import DamagedError, RefusedError, RegistryError, UnreachableError
from registry.manifest import MANIFEST_FILE, Manifest, read_manifest
from registry.patience import Patience

NAME = "tiny--x86"
SEED = 5
KILLS_AT_RANDOM = 120
FLIPS = 500
PULLERS = 24
OLD = {"config.json": b'{"layers": 3}', "model.onnx": b"old" * 5000, "texts/LICENSE": b"A licence.\n"}
NEW = {"config.json": b'{"layers": 4}', "model.onnx": bytes(range(256)) * 64, "texts/LICENSE": b"A new licence.\n"}
NOBODY = 65534


class World:
    """A server with the new artifact, a device with the old one, and processes that pull."""

    def __init__(self, folder: Path, server: ArtifactServer) -> None:
        folder.chmod(0o755)
        self.folder, self.server, self.to, self.shelf = folder, server, folder / "place" / "device", folder / "shelf"
        self.honest = folder / "served"
        self.new = self._served(self.honest, NEW)
        self.old = self._served(folder / "old", OLD)
        self.random = random.Random(SEED)
        server.folder = self.honest
        self.pullers = pullers(replace(self.asked, to=str(folder / "warm")), folder / "said")

    @staticmethod
    def _served(folder: Path, files: dict[str, bytes]) -> Manifest:
        made = write_artifact(folder, "tiny", files=files)
        (folder / MANIFEST_FILE).write_bytes(made.canonical())
        return made

    @property
    def asked(self) -> Pull:
        return Pull(NAME, self.server.source, self.new.digest, str(self.to), str(self.shelf))

    def reset(self) -> None:
        """The old artifact on the device, an empty shelf, an honest server."""
        shutil.rmtree(self.to.parent, ignore_errors=True)
        shutil.rmtree(self.shelf, ignore_errors=True)
        shutil.copytree(self.folder / "old", self.to)
        self.be_honest()

    def be_honest(self) -> None:
        self.server.folder, self.server.trick, self.server.tricks = self.honest, "", []
        self.server.asked.clear()

    def damaged(self) -> Path:
        """What the server has, to be damaged; from now on it is what the server sends."""
        folder = self.folder / "damaged"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.honest, folder)
        self.server.folder = folder
        return folder

    def check_reader(self, allow: tuple[Manifest, ...] = ()) -> None:
        """Rule 1."""
        if not self.to.exists():
            placing.recover(self.to)
        found = read_manifest(self.to)
        assert found in (allow or (self.old, self.new)), "another artifact stands there"
        found.verify(self.to)

    def check_again(self) -> None:
        """Rules 2 and 3."""
        self.be_honest()
        assert pull(self.asked) == self.new
        assert read_manifest(self.to) == self.new
        self.new.verify(self.to)
        assert set(beside(self.to)) <= {".device.previous"}, beside(self.to)
        assert sorted(path.name for path in self.to.parent.iterdir() if not path.name.startswith(".")) == ["device"]
        if (self.shelf / "halves").is_dir():
            assert list((self.shelf / "halves").iterdir()) == []
            assert len(list((self.shelf / "files").iterdir())) <= len(NEW)

    def check_refused(self, *errors: type[Exception], patience: Patience | None = None) -> None:
        """A pull that must fail leaves the old folder, and a later one ends well."""
        with contextlib.suppress(*errors):
            pull(self.asked, patience)
            raise AssertionError("the pull did not fail")
        self.check_reader((self.old,))
        assert beside(self.to) == []
        self.check_again()


@contextlib.contextmanager
def world() -> Iterator[World]:
    with tempfile.TemporaryDirectory() as folder, serving() as server:
        made = World(Path(folder), server)
        try:
            yield made
        finally:
            made.pullers.close()


def killed_at_every_step(world: World) -> Iterator[Run]:
    """SIGKILL before each thing that is asked of the disk, until a pull ends before it is killed."""
    ended = False

    def run(number: int) -> None:
        nonlocal ended
        world.reset()
        world.pullers.start(replace(world.asked, kill_at=number))
        (code,) = world.pullers.wait()
        ended = code == 0
        assert code in (0, -signal.SIGKILL), world.pullers.said()
        world.check_reader()
        world.check_again()

    number = 0
    while not ended:
        number += 1
        yield f"step {number}", partial(run, number)
    assert number > 40, "a pull has more steps than these"


def killed_at_random_moments(world: World) -> Iterator[Run]:
    world.reset()
    started = time.monotonic()
    world.pullers.start(world.asked)
    world.pullers.wait()
    usual_s = time.monotonic() - started

    def run(moment_s: float) -> None:
        world.reset()
        child = world.pullers.start(world.asked)
        time.sleep(moment_s)
        os.kill(child, signal.SIGKILL)
        world.pullers.wait()
        world.check_reader()
        world.check_again()

    for _ in range(KILLS_AT_RANDOM):
        moment_s = world.random.uniform(0, usual_s)
        yield f"after {moment_s:.4f} s", partial(run, moment_s)


def killed_again_and_again(world: World) -> Iterator[Run]:
    """Thirty pulls of one device, all killed, and nothing grows."""

    def run() -> None:
        world.reset()
        for _ in range(30):
            world.pullers.start(replace(world.asked, kill_at=world.random.randrange(5, 60)))
            world.pullers.wait()
            assert len(beside(world.to)) <= 3, beside(world.to)
        world.check_reader()
        world.check_again()

    yield "thirty times", run


def rollback_killed_at_every_step(world: World) -> Iterator[Run]:
    ended = False

    def run(number: int) -> None:
        nonlocal ended
        world.reset()
        pull(world.asked)
        world.pullers.start(replace(world.asked, rollback=True, kill_at=number))
        (code,) = world.pullers.wait()
        ended = code == 0
        world.check_reader()
        previous = placing.previous_of(world.to)
        whole = world.to.is_dir() and previous.is_dir()
        swapped = whole and read_manifest(world.to).digest == world.old.digest
        world.pullers.start(replace(world.asked, rollback=True))
        assert world.pullers.wait() == [0]
        wanted = (world.new, world.old) if swapped else (world.old, world.new)  # a second one swaps back
        assert (read_manifest(world.to), read_manifest(previous)) == wanted
        world.check_again()

    number = 0
    while not ended:
        number += 1
        yield f"step {number}", partial(run, number)
    assert number > 3, "a rollback has more steps than these"


@contextlib.contextmanager
def failing(step: str, number: int, code: int) -> Iterator[list[int]]:
    """The `number`-th call of `os.<step>` fails; how many there were is in the list."""
    ordinary, calls, lock = getattr(os, step), [0], threading.Lock()

    def fails(*arguments: Any, **options: Any) -> Any:
        with lock:
            calls[0] += 1
            mine = calls[0]
        if mine == number:
            raise OSError(code, os.strerror(code))
        return ordinary(*arguments, **options)

    with patch.object(os, step, fails):
        yield calls


def nth_step_fails(world: World) -> Iterator[Run]:
    """Each write, fsync, rename and so on of a pull fails once, in turn."""

    def run(step: str, number: int, code: int) -> None:
        nonlocal last
        world.reset()
        with failing(step, number, code) as calls, contextlib.suppress(RegistryError):
            pull(world.asked)
        last = calls[0] < number
        world.check_reader()
        world.check_again()

    for step in STEPS:
        for code in (errno.EIO, errno.ENOSPC) if step in ("write", "fsync", "rename") else (errno.EIO,):
            number, last = 0, False
            while not last:
                number += 1
                yield f"{step} {number}: {os.strerror(code)}", partial(run, step, number, code)


def disk_full(world: World) -> Iterator[Run]:
    """After so many bytes there is no room, for the shelf or for the folder; the last write takes what still fits."""
    size = sum(len(content) for content in NEW.values()) + len(world.new.canonical())
    ordinary = os.write

    def run(room: int, shelf: str | None) -> None:
        left, lock = room, threading.Lock()

        def full(file: int, content: bytes) -> int:
            nonlocal left
            with lock:
                if left == 0:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                count = ordinary(file, content[:left])
                left -= count
                return count

        world.reset()
        with patch.object(os, "write", full), contextlib.suppress(RegistryError):
            pull(replace(world.asked, shelf=shelf))
        world.check_reader()
        world.check_again()

    for tenth in range(10):
        yield f"{tenth} tenths", partial(run, size * tenth // 10, None)
        yield f"{tenth} tenths, with a shelf", partial(run, 2 * size * tenth // 10, str(world.shelf))


def flipped_bytes(world: World) -> Iterator[Run]:
    """One byte of what the server sends is another."""

    def run(path: str, place: int) -> None:
        if world.to.exists() and read_manifest(world.to) == world.old:
            world.be_honest()
        else:
            world.reset()
        flip(world.damaged() / path, place)
        with contextlib.suppress(DamagedError):
            pull(replace(world.asked, shelf=None))
            raise AssertionError("the pull did not fail")
        world.check_reader((world.old,))
        assert beside(world.to) == []

    places = [(path, place) for path in (*NEW, MANIFEST_FILE) for place in range((world.honest / path).stat().st_size)]
    small = [place for place in places if place[0] != "model.onnx"]
    for path, place in world.random.sample(places, FLIPS // 2) + world.random.sample(small, FLIPS - FLIPS // 2):
        yield f"{path} at {place}", partial(run, path, place)
    world.reset()


def other_lengths(world: World) -> Iterator[Run]:
    """Cut to nothing, to a byte, to a half, by a byte; or with a byte more."""

    def run(path: str, length: int) -> None:
        world.reset()
        file = world.damaged() / path
        content = file.read_bytes()
        file.write_bytes((content + b"x")[:length])
        world.check_refused(DamagedError, RefusedError)

    for path in (*NEW, MANIFEST_FILE):
        size = (world.honest / path).stat().st_size
        for length in (0, 1, size // 2, size - 1, size + 1):
            yield f"{path} of {size} bytes has {length}", partial(run, path, length)


def server_fails(world: World) -> Iterator[Run]:
    """It answers no request for a file as it should, whatever is asked for, and however often."""

    def run(trick: str, path: str) -> None:
        world.reset()
        world.server.tricked, world.server.trick = path, trick
        try:
            world.check_refused(RegistryError, patience=_HASTY if trick == "silent" else None)
        finally:
            world.server.tricked = "model.onnx"

    for path in (*NEW, MANIFEST_FILE):
        for status in (401, 403, 404, 410, 418, 429, 500, 502, 503, 504):
            yield f"{path}: {status}", partial(run, f"status {status}", path)
        for trick in ("later 3600", "cut 0", "compressed"):
            yield f"{path}: {trick}", partial(run, trick, path)
    yield "it hangs", partial(run, "silent", "texts/LICENSE")


def server_is_down(world: World) -> Iterator[Run]:
    def run(refuses: bool) -> None:
        world.reset()
        asked = replace(world.asked, source="http://127.0.0.1:9/here" if refuses else "http://nowhere.invalid/here")
        with contextlib.suppress(UnreachableError):
            pull(asked)
            raise AssertionError("the pull did not fail")
        world.check_reader((world.old,))
        world.check_again()

    yield "nobody listens", partial(run, True)
    yield "no such name", partial(run, False)


def server_restarts(world: World) -> Iterator[Run]:
    """In the middle of a file: the same pull goes on when it is back, and so does the next one when it came back too late."""

    def run(cut: int, comes_back: bool) -> None:
        world.reset()
        with serving(world.honest) as first:
            first.tricks, first.trick, port = [f"cut {cut}"], "cut 0", first.server_address[1]
            asked = replace(world.asked, source=first.source)
            stopped = _stop_after_cut(first)
            patience = Patience(tries=6 if not comes_back else 400, first_pause_s=0.005, most_pause_s=0.01, read_s=10)
            found: list[Manifest] = []
            puller = threading.Thread(target=lambda: found.append(_pulled_or_not(asked, patience)))
            puller.start()
            stopped.wait(20)
            if not comes_back:
                puller.join()
                world.check_reader((world.old,))
            with serving(world.honest, port) as second:
                if not comes_back:
                    found.append(pull(asked))
                puller.join()
                assert found[-1] == world.new
                assert second.firsts() == [cut], second.firsts()
        world.check_again()

    for cut in (1, 5000, 16383):
        for comes_back in (True, False):
            yield f"after {cut} bytes, {'soon' if comes_back else 'late'}", partial(run, cut, comes_back)


def _stop_after_cut(server: ArtifactServer) -> threading.Event:
    """Set once the server has sent the cut part of model.onnx and all other files, and listens no longer."""
    stopped = threading.Event()

    def watch() -> None:
        while server.tricks or len({asked.path for asked in server.asked}) < 1 + len(NEW):
            time.sleep(0.001)
        server.shutdown()
        server.socket.close()
        stopped.set()

    threading.Thread(target=watch, daemon=True).start()
    return stopped


def _pulled_or_not(asked: Pull, patience: Patience) -> Manifest | None:
    with contextlib.suppress(UnreachableError):
        return pull(asked, patience)
    return None


def ranges_not_kept(world: World) -> Iterator[Run]:
    """After a cut the server answers for the rest in every wrong way, in the same run or in the next."""

    def run(trick: str, cut: int, next_run: bool) -> None:
        world.reset()
        if next_run:
            world.server.tricks, world.server.trick = [f"cut {cut}"], "cut 0"
            with contextlib.suppress(UnreachableError):
                pull(world.asked)
            world.be_honest()
            world.server.tricks = [trick]
        else:
            world.server.tricks = [f"cut {cut}", trick]
        if trick == "wrong total":
            world.check_refused(DamagedError)
            return
        assert pull(world.asked) == world.new
        world.check_reader((world.new,))
        world.check_again()

    for trick in ("ignores ranges", "wrong start", "wrong range", "wrong total", "no range", "short range"):
        for cut in (1, 5000, 16383):
            for next_run in (False, True):
                yield (
                    f"{trick} after {cut}, {'next run' if next_run else 'same run'}",
                    partial(run, trick, cut, next_run),
                )


def content_changes(world: World) -> Iterator[Run]:
    """What the server has is another file of the same length from the cut on, for a while or for good."""

    def run(cut: int, for_good: bool) -> None:
        world.reset()
        world.server.tricks, world.server.trick = [f"cut {cut}"], "cut 0"
        with contextlib.suppress(UnreachableError):
            pull(world.asked)
        world.be_honest()
        if for_good:
            world.server.trick = "sends other bytes"
            world.check_refused(DamagedError)
        else:
            world.server.tricks = ["sends other bytes"]
            assert pull(world.asked) == world.new
            world.check_reader((world.new,))
        world.check_again()

    for cut in (1, 100, 8192, 16383):
        for for_good in (False, True):
            yield f"from {cut} on, {'for good' if for_good else 'once'}", partial(run, cut, for_good)


def cuts_at_every_chunk(world: World) -> Iterator[Run]:
    def run(chunk: int) -> None:
        world.reset()
        world.server.trick = f"cut {chunk}"
        assert pull(world.asked, replace(_PATIENT, forward_bytes=chunk)) == world.new
        assert world.server.firsts() == list(range(0, len(NEW["model.onnx"]), chunk))
        world.check_reader((world.new,))
        world.check_again()

    for chunk in (97, 256, 1000, 4096, 16383):
        yield f"every {chunk} bytes", partial(run, chunk)


_PATIENT = Patience(first_pause_s=0.0001, most_pause_s=0.0002)
_HASTY = Patience(tries=3, first_pause_s=0.001, read_s=0.1)


def many_at_once(world: World) -> Iterator[Run]:
    """Two dozen processes with one shelf: into folders of their own, where a file is fetched once; and into one folder."""

    def run(one_folder: bool) -> None:
        world.reset()
        for number in range(PULLERS):
            to = world.to if one_folder else world.to.with_name(f"device-{number}")
            world.pullers.start(replace(world.asked, to=str(to)))
        assert world.pullers.wait() == [0] * PULLERS, world.pullers.said()
        if one_folder:
            assert read_manifest(placing.previous_of(world.to)) == world.old
        else:
            assert len(world.server.firsts()) == 1
            for number in range(PULLERS):
                world.new.verify(world.to.with_name(f"device-{number}"))
                shutil.rmtree(world.to.with_name(f"device-{number}"))
        world.check_reader()
        world.check_again()

    yield "folders of their own", partial(run, False)
    yield "one folder", partial(run, True)


def many_at_once_some_killed(world: World) -> Iterator[Run]:
    """The same, and every other is killed at a random step: the rest end well."""

    def run() -> None:
        world.reset()
        for number in range(PULLERS):
            kill_at = world.random.randrange(1, 60) if number % 2 else None
            world.pullers.start(replace(world.asked, kill_at=kill_at))
        codes = world.pullers.wait()
        assert codes[::2] == [0] * (PULLERS // 2), world.pullers.said()
        world.check_reader((world.new,))
        world.check_again()

    for number in range(5):
        yield f"round {number}", run


def folders_in_the_way(world: World) -> Iterator[Run]:
    """Read-only where it would write, a shelf that leads elsewhere: told, or done without."""

    def run(prepare: Callable[[], None], code: int, user: int | None) -> None:
        world.reset()
        prepare()
        world.pullers.start(replace(world.asked, user=user))
        try:
            assert world.pullers.wait() == [code], world.pullers.said()
            world.check_reader((world.new if code == 0 else world.old,))
        finally:
            _mine_again(world)
        world.check_again()

    letter = world.folder / "documents" / "letter.txt"

    def link_shelf() -> None:
        letter.parent.mkdir(exist_ok=True)
        letter.write_text("Dear all")
        world.shelf.symlink_to(letter.parent)

    def unlink_shelf() -> None:
        assert [path.name for path in letter.parent.iterdir()] == ["letter.txt"]

    nobody = NOBODY if os.getuid() == 0 else None
    yield "the folder around may not be written", partial(run, partial(_read_only, world, world.to.parent), 1, nobody)
    yield "the shelf may not be written", partial(run, partial(_read_only, world, world.shelf), 0, nobody)
    yield "the shelf is a link to documents", partial(run, link_shelf, 0, None)
    yield "the documents are as they were", unlink_shelf


def _read_only(world: World, folder: Path) -> None:
    """`folder` may not be written, and everything else may, by whoever pulls."""
    world.shelf.mkdir(exist_ok=True)
    for path in (world.to, *world.to.rglob("*"), world.to.parent, world.shelf):
        if os.getuid() == 0:
            os.chown(path, NOBODY, NOBODY)
    folder.chmod(0o555)


def _mine_again(world: World) -> None:
    for path in (world.to.parent, *world.to.parent.rglob("*"), world.shelf):
        if os.getuid() == 0 and not path.is_symlink():
            os.chown(path, 0, 0)
    world.to.parent.chmod(0o755)
    if not world.shelf.is_symlink():
        world.shelf.chmod(0o755)


CASES: tuple[Callable[[World], Iterator[Run]], ...] = (
    killed_at_every_step,
    killed_at_random_moments,
    killed_again_and_again,
    rollback_killed_at_every_step,
    nth_step_fails,
    disk_full,
    flipped_bytes,
    other_lengths,
    server_fails,
    server_is_down,
    server_restarts,
    ranges_not_kept,
    content_changes,
    cuts_at_every_chunk,
    many_at_once,
    many_at_once_some_killed,
    folders_in_the_way,
)
