"""The shelf: what was fetched once is not fetched again, nothing on it is trusted, and it is only ever a help."""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from filelock import FileLock
from fixtures.artifact_server import ArtifactServer
from fixtures.artifacts import flip, register

from registry import copying
from registry.copying import copy
from registry.errors import UnreachableError
from registry.manifest import FileEntry, Manifest
from registry.patience import Stopped
from registry.shelf import Shelf
from registry.store import Store

GB = 10**9


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "shelf", GB, patience_s=0.2)


def entry_of(content: bytes) -> FileEntry:
    return FileEntry("a.onnx", len(content), hashlib.sha256(content).hexdigest())


def put(shelf: Shelf, content: bytes, to: Path) -> Path:
    """Have the shelf fetch a file; where it keeps it."""
    assert shelf.fetch(entry_of(content), to, lambda half: half.write_bytes(content), threading.Event())
    return shelf.folder / "files" / entry_of(content).sha256


def again(shelf: Shelf) -> Shelf:
    """As another process opens it."""
    return Shelf(shelf.folder, GB, patience_s=0.2)


def test_what_one_folder_fetched_another_takes_from_the_shelf(
    store: Store, name: str, served: Manifest, server: ArtifactServer, shelf: Shelf, tmp_path: Path
) -> None:
    store.pull(name, tmp_path / "one", shelf=shelf)
    server.asked.clear()
    steps: list[tuple[int, int]] = []
    store.pull(name, tmp_path / "two", shelf=again(shelf), progress=lambda *step: steps.append(step))
    assert [asked.path for asked in server.asked] == ["manifest.json", "model.sig"]
    assert steps[-1] == (served.size, served.size)
    served.verify(tmp_path / "one")
    served.verify(tmp_path / "two")


def test_what_the_folder_or_its_previous_holds_is_not_fetched(
    store: Store, name: str, served: Manifest, server: ArtifactServer, make_artifact: Any, tmp_path: Path
) -> None:
    to = tmp_path / "device"
    store.pull(name, to)
    folder, made = make_artifact({"config.json": b"{}"})
    (folder / "model.onnx").unlink()
    server.folder = folder
    register(store, folder, made, server.source)
    server.asked.clear()
    store.pull(name, to)
    assert [asked.path for asked in server.asked] == ["manifest.json", "model.sig", "config.json"]
    server.asked.clear()
    folder, made = make_artifact({"texts/NOTICE": b"New"})
    server.folder = folder
    register(store, folder, made, server.source)
    store.pull(name, to)
    assert [asked.path for asked in server.asked] == ["manifest.json", "model.sig", "texts/NOTICE"]
    made.verify(to)


def test_a_damaged_file_that_is_at_hand_is_fetched(
    store: Store, name: str, served: Manifest, server: ArtifactServer, shelf: Shelf, tmp_path: Path
) -> None:
    to = tmp_path / "device"
    store.pull(name, to, shelf=shelf)
    for path in (to / "model.onnx", *(shelf.folder / "files").iterdir()):
        flip(path, 5)
    server.asked.clear()
    store.pull(name, to, shelf=shelf)
    assert sorted(asked.path for asked in server.asked) == ["manifest.json", "model.onnx", "model.sig"]
    server.asked.clear()
    store.pull(name, tmp_path / "second", shelf=shelf)
    assert "model.onnx" not in [asked.path for asked in server.asked]
    served.verify(to)
    served.verify(tmp_path / "second")


@pytest.mark.parametrize(
    "damage",
    [
        lambda kept: flip(kept, 3),
        lambda kept: os.truncate(kept, 2),
        lambda kept: kept.write_bytes(kept.read_bytes() + b"x"),
        lambda kept: (kept.unlink(), kept.symlink_to("/etc/hostname")),
        lambda kept: (kept.unlink(), os.mkfifo(kept)),
    ],
)
def test_a_damaged_file_on_the_shelf_is_never_taken_and_goes(
    damage: Callable[[Path], object], shelf: Shelf, tmp_path: Path
) -> None:
    kept = put(shelf, b"content", tmp_path / "first")
    damage(kept)
    assert not shelf.take(entry_of(b"content"), tmp_path / "second")
    assert not (tmp_path / "second").exists()
    assert not os.path.lexists(kept)
    put(shelf, b"content", tmp_path / "third")
    assert (tmp_path / "third").read_bytes() == b"content"


def test_what_a_cut_left_is_gone_on_with_by_the_next_run(
    store: Store, name: str, served: Manifest, server: ArtifactServer, shelf: Shelf, tmp_path: Path
) -> None:
    server.tricks, server.trick = ["cut 5000"], "cut 0"
    with pytest.raises(UnreachableError):
        store.pull(name, tmp_path / "device", shelf=shelf)
    server.trick = ""
    store.pull(name, tmp_path / "device", shelf=again(shelf))
    assert server.firsts()[-1] == 5000
    served.verify(tmp_path / "device")
    assert list((shelf.folder / "halves").iterdir()) == []


def test_no_file_of_a_pulled_folder_is_a_link(
    store: Store, name: str, served: Manifest, shelf: Shelf, tmp_path: Path
) -> None:
    store.pull(name, tmp_path / "device", shelf=shelf)
    assert {path.stat().st_nlink for path in tmp_path.rglob("*") if path.is_file()} == {1}
    flip(tmp_path / "device" / "model.onnx")
    store.pull(name, tmp_path / "second", shelf=shelf)
    served.verify(tmp_path / "second")


def test_many_at_once_fetch_a_file_once(shelf: Shelf, tmp_path: Path) -> None:
    content, fetched = os.urandom(100_000), []
    gate = threading.Barrier(12)

    def one(number: int) -> None:
        def bring(half: Path) -> None:
            fetched.append(number)
            half.write_bytes(content)

        gate.wait()
        assert Shelf(shelf.folder, GB).fetch(entry_of(content), tmp_path / str(number), bring, threading.Event())

    threads = [threading.Thread(target=one, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fetched) == 1
    assert {(tmp_path / str(number)).read_bytes() for number in range(12)} == {content}


def test_a_file_that_another_process_holds_without_going_on_is_fetched_without_the_shelf(
    store: Store, name: str, served: Manifest, shelf: Shelf, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert shelf.has_room(0)
    held = [FileLock(shelf.folder / "locks" / f"{entry.sha256[:2]}.lock") for entry in served.files]
    for lock in held:
        lock.acquire()
    store.pull(name, tmp_path / "device", shelf=shelf)
    served.verify(tmp_path / "device")
    assert "another process holds a file and does not go on" in caplog.text
    for lock in held:
        lock.release()


def test_who_waits_while_another_file_comes_under_the_same_lock_waits_on(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, seconds = b"content", itertools.count()
    entry = entry_of(content)
    assert shelf.has_room(0)
    held = FileLock(shelf.folder / "locks" / f"{entry.sha256[:2]}.lock")
    held.acquire()

    def clock() -> float:
        """A second goes by at every look, in which a piece of the other file comes, until all are there."""
        second = next(seconds)
        (shelf.folder / "halves" / (entry.sha256[:2] + "0" * 62)).write_bytes(b"x" * second)
        if second == 6:
            held.release()
        return second

    monkeypatch.setattr("registry.shelf.time", SimpleNamespace(monotonic=clock))
    waiting = Shelf(shelf.folder, GB, patience_s=2)
    assert waiting.fetch(entry, tmp_path / "device", lambda half: half.write_bytes(content), threading.Event())


def test_who_waits_for_another_process_stops_when_the_pull_does(shelf: Shelf, tmp_path: Path) -> None:
    entry, stop = entry_of(b"content"), threading.Event()
    assert shelf.has_room(0)
    stop.set()
    with FileLock(shelf.folder / "locks" / f"{entry.sha256[:2]}.lock"), pytest.raises(Stopped):
        Shelf(shelf.folder, GB).fetch(entry, tmp_path / "to", lambda half: None, stop)


def test_a_file_system_that_shares_nothing_gets_the_bytes_in_both_places_as_they_come(
    store: Store, name: str, served: Manifest, server: ArtifactServer, shelf: Shelf, tmp_path: Path
) -> None:
    """No copy is made after; and cut, resumed in the next run and begun anew, both are the same."""
    server.tricks, server.trick = ["cut 5000"], "cut 0"
    with pytest.raises(UnreachableError):
        store.pull(name, tmp_path / "device", shelf=shelf)
    server.tricks, server.trick = ["cut 1000", "wrong range", "cut 3000"], ""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("registry.shelf.copy", lambda *asked: False)
        store.pull(name, tmp_path / "device", shelf=again(shelf))
    assert server.firsts()[-4:] == [5000, 6000, 0, 3000]
    for entry in served.files:
        kept = shelf.folder / "files" / entry.sha256
        assert kept.read_bytes() == (tmp_path / "device" / entry.path).read_bytes()
    served.verify(tmp_path / "device")


def test_the_shelf_is_bounded_and_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "shelf", 250)
    kept = [put(shelf, bytes([number]) * 100, tmp_path / f"to {number}") for number in range(3)]
    for age, path in enumerate(kept):
        os.utime(path, (1000 + age, 1000 + age))
    assert shelf.take(entry_of(bytes([0]) * 100), tmp_path / "used")
    shelf.trim()
    assert [path.exists() for path in kept] == [True, False, True]


def test_a_pull_leaves_no_more_on_the_shelf_than_it_may_hold(
    store: Store, name: str, make_artifact: Any, server: ArtifactServer, tmp_path: Path
) -> None:
    shelf = Shelf(tmp_path / "shelf", 6000)
    for number in range(3):
        folder, made = make_artifact({"model.onnx": bytes([number]) * 5000})
        server.folder = folder
        register(store, folder, made, server.source)
        store.pull(name, tmp_path / f"device {number}", shelf=shelf)
    kept = [path.stat().st_size for path in (shelf.folder / "files").iterdir()]
    assert 5000 <= sum(kept) <= 6000


def test_halves_of_a_week_ago_go_and_younger_ones_stay(shelf: Shelf) -> None:
    assert shelf.has_room(0)
    for name, age in (("a" * 64, 8), ("b" * 64, 1)):
        half = shelf.folder / "halves" / name
        half.write_bytes(b"half")
        os.utime(half, (half.stat().st_mtime - age * 86400,) * 2)
    shelf.trim()
    assert [path.name for path in (shelf.folder / "halves").iterdir()] == ["b" * 64]


def test_what_is_being_fetched_is_not_trimmed_away(tmp_path: Path) -> None:
    shelf, content = Shelf(tmp_path / "shelf", 1), b"content"

    def bring(half: Path) -> None:
        half.write_bytes(content)
        Shelf(shelf.folder, 1).trim()

    assert shelf.fetch(entry_of(content), tmp_path / "to", bring, threading.Event())


def test_what_another_process_trims_away_while_it_is_taken_is_no_trouble(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    put(shelf, b"content", tmp_path / "first")
    ordinary = os.utime

    def trimmed(path: Path) -> None:
        path.unlink()
        ordinary(path)

    monkeypatch.setattr(os, "utime", trimmed)
    assert shelf.take(entry_of(b"content"), tmp_path / "second")
    assert caplog.messages == []
    put(shelf, b"other", tmp_path / "third")


def _foreign(folder: Path) -> None:
    folder.with_name("documents").mkdir()
    (folder.with_name("documents") / "letter.txt").write_text("Dear all")
    folder.symlink_to(folder.with_name("documents"))


def _linked_inside(folder: Path) -> None:
    Shelf(folder, GB).has_room(0)
    (folder / "files").rmdir()
    folder.with_name("documents").mkdir()
    (folder / "files").symlink_to(folder.with_name("documents"))


def _of_another_program(folder: Path) -> None:
    folder.mkdir()
    (folder / "CACHEDIR.TAG").write_text("Signature: 8a477f597d28d172789f06886806bc55\n# pip\n")


def _a_file(folder: Path) -> None:
    folder.write_text("Dear all")


def _open_to_all(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)


BAD = {
    "is a link to someone's documents": (_foreign, "holds other files"),
    "has a link inside": (_linked_inside, "is a link"),
    "is another program's": (_of_another_program, "another program's"),
    "is a file": (_a_file, "File exists"),
    "may be written by anyone": (_open_to_all, "anyone may write it"),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_pull_is_told_and_goes_on_without_a_shelf_that(
    bad: str, store: Store, name: str, served: Manifest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make, reason = BAD[bad]
    make(tmp_path / "shelf")
    documents = sorted(path.name for path in tmp_path.glob("documents/*"))
    with caplog.at_level(logging.WARNING):
        store.pull(name, tmp_path / "device", shelf=Shelf(tmp_path / "shelf", GB))
    served.verify(tmp_path / "device")
    (message,) = caplog.messages
    assert "is done without" in message
    assert reason in message
    assert sorted(path.name for path in tmp_path.glob("documents/*")) == documents


def test_a_shelf_that_may_not_be_written_is_done_without(
    store: Store,
    name: str,
    served: Manifest,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shelf = Shelf(tmp_path / "shelf", GB)
    assert shelf.has_room(0)
    monkeypatch.setattr(os, "access", lambda *asked: False)  # root may write whatever its mode
    store.pull(name, tmp_path / "device", shelf=Shelf(tmp_path / "shelf", GB))
    served.verify(tmp_path / "device")
    assert "it cannot be written" in caplog.text


def test_a_shelf_that_is_a_link_to_a_folder_of_its_own_is_used(shelf: Shelf, tmp_path: Path) -> None:
    (tmp_path / "large disk").mkdir()
    (tmp_path / "shelf").symlink_to(tmp_path / "large disk")
    assert put(shelf, b"content", tmp_path / "to").is_file()


def test_a_disk_that_is_full_on_the_shelf_only_is_told_and_done_without(
    store: Store,
    name: str,
    served: Manifest,
    shelf: Shelf,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ordinary = os.write

    def full(file: int, piece: Any) -> int:
        if "/halves/" in os.readlink(f"/proc/self/fd/{file}"):
            raise OSError(28, "No space left on device")
        return ordinary(file, piece)

    monkeypatch.setattr(os, "write", full)
    steps: list[tuple[int, int]] = []
    store.pull(name, tmp_path / "device", shelf=shelf, progress=lambda *step: steps.append(step))
    served.verify(tmp_path / "device")
    assert steps[-1] == (served.size, served.size)
    assert "No space left on device" in caplog.text
    assert list((shelf.folder / "halves").iterdir()) == []


def test_a_file_system_that_shares_blocks_is_asked_to_and_what_it_gives_is_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file system here does: the request is answered by a copy, and once by other bytes."""
    given = [b"content", b"CONTENT"]

    def clone(writing: int, request: int, reading: int) -> int:
        assert request == 0x40049409
        os.pwrite(writing, given.pop(0), 0)
        return 0

    (tmp_path / "from").write_bytes(b"content")
    monkeypatch.setattr(fcntl, "ioctl", clone)
    assert copying.copy(tmp_path / "from", entry_of(b"content"), tmp_path / "one")
    assert (tmp_path / "one").read_bytes() == b"content"
    assert not copying.copy(tmp_path / "from", entry_of(b"content"), tmp_path / "two")
    assert not (tmp_path / "two").exists()


def test_a_copy_never_takes_the_place_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "from").write_bytes(b"content")
    (tmp_path / "to").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        copy(tmp_path / "from", entry_of(b"content"), tmp_path / "to")
    assert (tmp_path / "to").read_bytes() == b"mine"
