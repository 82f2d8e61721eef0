"""Pulling under attack: real bytes changed where the registry keeps them or on their way, folders of every kind in the way."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fixtures.artifacts import beside, clear, flip, kept, shorten

from registry import placing, pulling
from registry.errors import DamagedError, NoSpaceError, NotFoundError, RefusedError, RegistryError, UnreachableError
from registry.manifest import MANIFEST_FILE, MOST_MANIFEST_BYTES, Manifest, read_manifest
from registry.store import MANIFEST_TAG, PRODUCTION, Store, Version


def _replace_manifest(version: Version, content: bytes) -> None:
    (kept(version) / MANIFEST_FILE).write_bytes(content)


def _escape(version: Version) -> None:
    content = (kept(version) / MANIFEST_FILE).read_bytes()
    _replace_manifest(version, content.replace(b'"config.json"', b'"../config.json"'))


def _link(version: Version) -> None:
    path = kept(version) / "model.onnx"
    path.unlink()
    path.symlink_to("/etc/hostname")


ATTACKS = {
    "a flipped byte": (lambda version: flip(kept(version) / "model.onnx"), r"model\.onnx has SHA-256"),
    "a short file": (lambda version: shorten(kept(version) / "model.onnx", 7), "has 7 bytes, wanted 16384"),
    "an empty file": (lambda version: shorten(kept(version) / "model.onnx", 0), r"(has|at) 0 (bytes, wanted|of) 16384"),
    "a missing file": (lambda version: (kept(version) / "texts/LICENSE").unlink(), "no longer holds texts/LICENSE"),
    "no manifest": (lambda version: (kept(version) / MANIFEST_FILE).unlink(), r"no longer holds manifest\.json"),
    "no bytes at all": (lambda version: clear(kept(version)), r"no longer holds manifest\.json"),
    "another manifest": (lambda version: _replace_manifest(version, b"{}\n"), "not the one registered"),
    "a manifest with a path that leaves the folder": (_escape, "not the one registered"),
    "a manifest too large": (
        lambda version: _replace_manifest(version, b" " * (MOST_MANIFEST_BYTES + 1)),
        f"wanted 1 to {MOST_MANIFEST_BYTES}",
    ),
}


def test_a_file_that_became_a_link_is_not_followed(
    embedded_only: None, store: Store, name: str, make_artifact: Any, tmp_path: Path
) -> None:
    _link(store.publish(*make_artifact(), registered_model=name))
    with pytest.raises(DamagedError, match=r"model\.onnx"):
        store.pull(name, tmp_path / "device")
    assert not (tmp_path / "device").exists()


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_gets_the_final_name_and_nothing_is_left_after(
    attack: str, store: Store, name: str, make_artifact: Any, tmp_path: Path
) -> None:
    change, message = ATTACKS[attack]
    change(store.publish(*make_artifact(), registered_model=name))
    to = tmp_path / "device"
    with pytest.raises((DamagedError, UnreachableError), match=message):
        store.pull(name, to)
    assert not to.exists()
    assert beside(to) == []


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_old_folder_stays_whole_after(
    attack: str, store: Store, name: str, make_artifact: Any, tmp_path: Path
) -> None:
    old, to = make_artifact(), tmp_path / "device"
    store.publish(*old, registered_model=name)
    store.pull(name, to)
    change, _ = ATTACKS[attack]
    new = {"model.onnx": bytes(range(256))[::-1] * 64, "texts/LICENSE": b"Another.\n"}
    change(store.publish(*make_artifact(new), registered_model=name))
    with pytest.raises((DamagedError, UnreachableError)):
        store.pull(name, to)
    assert read_manifest(to) == old[1]
    old[1].verify(to)
    assert beside(to) == []


def test_a_manifest_that_was_registered_with_a_bad_path_is_refused(
    store: Store, name: str, make_artifact: Any, tmp_path: Path
) -> None:
    version = store.publish(*make_artifact(), registered_model=name)
    _escape(version)
    digest = hashlib.sha256((kept(version) / MANIFEST_FILE).read_bytes()).hexdigest()
    store.client().set_model_version_tag(name, version.version, MANIFEST_TAG, digest)
    with pytest.raises(RefusedError, match=r"\.\./config\.json"):
        store.pull(name, tmp_path / "device", version.version)
    with pytest.raises(DamagedError, match="version 1 is not what was promoted to production"):
        store.pull(name, tmp_path / "device")
    assert not (tmp_path / "device").exists()


def test_an_extra_file_in_the_registry_never_reaches_the_device(
    store: Store, name: str, make_artifact: Any, tmp_path: Path
) -> None:
    (kept(store.publish(*make_artifact(), registered_model=name)) / "more.sh").write_text("echo")
    manifest = store.pull(name, tmp_path / "device")
    manifest.verify(tmp_path / "device")
    assert not (tmp_path / "device" / "more.sh").exists()


def test_a_version_that_something_else_registered_is_not_pulled(
    embedded_only: None, store: Store, name: str, tmp_path: Path
) -> None:
    client = store.client()
    client.create_registered_model(name)
    assert store.versions(name) == ()
    with pytest.raises(NotFoundError, match="it has none yet"):
        store.resolve(name)
    version = client.create_model_version(name, (tmp_path / "gone").as_uri()).version
    client.set_registered_model_alias(name, PRODUCTION, version)
    with pytest.raises(DamagedError, match="was not published by amoeba: it names no manifest"):
        store.pull(name, tmp_path / "device")


def test_a_pull_of_what_is_there_fetches_no_file(store: Store, name: str, make_artifact: Any, tmp_path: Path) -> None:
    version, to = store.publish(*make_artifact(), registered_model=name), tmp_path / "device"
    store.pull(name, to)
    before = to.stat().st_ino
    (kept(version) / "model.onnx").unlink()
    store.pull(name, to)
    assert to.stat().st_ino == before


def test_a_pull_mends_a_damaged_folder(store: Store, name: str, make_artifact: Any, tmp_path: Path) -> None:
    (_, made), to = make_artifact(), tmp_path / "device"
    store.publish(*make_artifact(), registered_model=name)
    store.pull(name, to)
    flip(to / "model.onnx")
    store.pull(name, to)
    made.verify(to)
    assert beside(to) == [".device.previous"]


def test_a_pull_keeps_the_replaced_folder_beside_the_new_one(
    store: Store, name: str, make_artifact: Any, tmp_path: Path
) -> None:
    artifacts, to = [make_artifact({"more": str(number).encode()}) for number in range(3)], tmp_path / "device"
    for artifact in artifacts:
        store.publish(*artifact, registered_model=name)
        store.pull(name, to)
    assert read_manifest(to) == artifacts[2][1]
    assert read_manifest(tmp_path / ".device.previous") == artifacts[1][1]


def test_what_another_process_is_just_replacing_is_not_taken_for_somebody_s_own(
    store: Store, name: str, make_artifact: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to, usual = tmp_path / "device", pulling.registered
    store.publish(*make_artifact(), registered_model=name)
    store.pull(name, to)
    newer = make_artifact({"more": b"1"})
    store.publish(*newer, registered_model=name)

    def another_replaces(*given: Any) -> Any:
        around = placing._alone(tmp_path)
        around.__enter__()
        (to / MANIFEST_FILE).rename(tmp_path / "for a moment")

        def ends() -> None:
            (tmp_path / "for a moment").rename(to / MANIFEST_FILE)
            around.__exit__(None, None, None)

        threading.Timer(0.5, ends).start()
        return usual(*given)

    monkeypatch.setattr(pulling, "registered", another_replaces)
    assert store.pull(name, to) == newer[1]


def test_what_is_no_pulled_artifact_is_never_replaced(
    store: Store, name: str, make_artifact: Any, tmp_path: Path
) -> None:
    store.publish(*make_artifact(), registered_model=name)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("Dear all")
    for folder, content in {"project": '{"scripts": []}', "notes": "Dear all"}.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / MANIFEST_FILE).write_text(content)
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for taken in ("mine", "project", "notes", "file", "link", "dangling"):
        with pytest.raises(RefusedError, match="holds no pulled artifact; choose another"):
            store.pull(name, tmp_path / taken)
    assert (tmp_path / "mine" / "letter.txt").read_text() == "Dear all"
    assert (tmp_path / "notes" / MANIFEST_FILE).read_text() == "Dear all"


@pytest.mark.parametrize("own", ["letter.txt", "texts/letter.txt", "link"])
def test_somebody_s_own_file_in_a_pulled_folder_is_not_replaced_with_it(
    own: str, store: Store, name: str, make_artifact: Any, tmp_path: Path
) -> None:
    made, to = [make_artifact(), make_artifact({"more": b"1"})], tmp_path / "device"
    for artifact in made:
        store.publish(*artifact, registered_model=name)
    store.pull(name, to, "1")
    (to / own).symlink_to(tmp_path) if own == "link" else (to / own).write_text("Dear all")
    with pytest.raises(RefusedError, match=f"device holds {own}, which is not of the artifact pulled there; move it"):
        store.pull(name, to)
    assert os.path.lexists(to / own)
    assert beside(to) == []
    (to / own).unlink()
    (to / "texts" / "__pycache__").mkdir()
    (to / "texts" / "__pycache__" / "x.pyc").write_bytes(b"x")
    assert store.pull(name, to) == made[1][1]


def test_a_pull_stopped_at_its_last_rename_puts_the_old_folder_back(
    store: Store, name: str, make_artifact: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, to = make_artifact(), tmp_path / "device"
    store.publish(*old, registered_model=name)
    store.pull(name, to)
    store.publish(*make_artifact({"more": b"1"}), registered_model=name)
    ordinary = Path.rename

    def failing(path: Path, target: Path) -> Path:
        if path.name.startswith(".device.partial-"):
            raise OSError(5, "Input/output error")
        return ordinary(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", failing)
        with pytest.raises(RegistryError, match="Input/output error"):
            store.pull(name, to)
    assert read_manifest(to) == old[1]
    assert beside(to) == []


def test_what_a_killed_pull_left_is_cleared_and_the_folder_it_had_set_aside_is_taken_back(
    store: Store, name: str, make_artifact: Any, tmp_path: Path
) -> None:
    old, to = make_artifact(), tmp_path / "device"
    store.publish(*old, registered_model=name)
    store.pull(name, to)
    to.rename(tmp_path / ".device.previous")
    (tmp_path / ".device.partial-abc").mkdir()
    (tmp_path / ".device-2.partial-abc").mkdir()
    with pytest.raises(NotFoundError):
        store.pull(name, to, "77")
    assert read_manifest(to) == old[1]
    assert beside(to) == [".device-2.partial-abc"]


def test_files_that_nobody_may_remove_stop_no_later_pull(
    store: Store, name: str, make_artifact: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ordinary = shutil.rmtree

    def not_of_others(path: Path, **options: Any) -> None:
        if ".aside" not in str(path):
            ordinary(path, **options)

    monkeypatch.setattr(shutil, "rmtree", not_of_others)
    for more in b"12345":
        artifact = make_artifact({"more": bytes([more])})
        store.publish(*artifact, registered_model=name)
        assert store.pull(name, tmp_path / "device") == artifact[1]


def test_where_the_file_system_has_no_locks_a_pull_keeps_what_it_makes(
    store: Store, name: str, make_artifact: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    artifact, another = make_artifact(), tmp_path / ".device.partial-another"
    store.publish(*artifact, registered_model=name)
    another.mkdir()
    monkeypatch.setattr(placing.fcntl, "flock", no_locks)  # type: ignore[attr-defined]
    assert store.pull(name, tmp_path / "device") == artifact[1]
    assert another.is_dir()


def test_nothing_is_written_through_a_link_that_somebody_put_beside(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"mine")
    (tmp_path / ".device.new").symlink_to(tmp_path / "victim")
    placing.write(tmp_path / ".device.promotion", lambda: b"a record", tmp_path / "device")
    assert (tmp_path / "victim").read_bytes() == b"mine"
    assert not (tmp_path / ".device.promotion").is_symlink()
    assert (tmp_path / ".device.promotion").read_bytes() == b"a record"


def test_a_disk_too_full_is_told_before_a_byte_is_fetched(
    store: Store, name: str, make_artifact: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.publish(*make_artifact(), registered_model=name)
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(NoSpaceError, match=r"needs 67 MB at .*, 0 MB are free; make room"):
        store.pull(name, tmp_path / "device")


def test_a_disk_that_fills_up_on_the_way_leaves_nothing_behind(
    store: Store, name: str, make_artifact: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.publish(*make_artifact(), registered_model=name)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NoSpaceError, match="make room"):
        store.pull(name, tmp_path / "device")
    assert beside(tmp_path / "device") == []
    assert not (tmp_path / "device").exists()


def test_a_version_is_pulled_from_an_honest_server(store: Store, name: str, served: Manifest, tmp_path: Path) -> None:
    assert store.pull(name, tmp_path / "device") == served
    served.verify(tmp_path / "device")


TRICKS = {
    "cut 0": (UnreachableError, "stopped sending model.onnx at 0 of 16384 bytes"),
    "sends less": (DamagedError, "has 5000 bytes, the manifest says 16384"),
    "sends more": (DamagedError, "has 16388 bytes, the manifest says 16384"),
    "sends more than said": (DamagedError, "has more bytes, the manifest says 16384"),
    "sends other bytes": (DamagedError, r"model\.onnx has SHA-256"),
    "status 404": (DamagedError, r"no longer holds model\.onnx"),
    "status 403": (
        RegistryError,
        r"refuses to send model\.onnx \(status 403\); credentials are sent to the registry's own",
    ),
    "status 418": (RegistryError, r"answers model\.onnx with status 418"),
    "status 500": (UnreachableError, r"\(status 500\); check the server and run it again"),
    "compressed": (UnreachableError, "compressed bytes, which were not asked for"),
    "silent": (UnreachableError, "stopped sending"),
}


@pytest.mark.parametrize("trick", TRICKS)
def test_nothing_is_placed_or_lost_when_the_server(
    trick: str, store: Store, name: str, served: Manifest, server: Any, tmp_path: Path
) -> None:
    to, (error, message) = tmp_path / "device", TRICKS[trick]
    usual, hasty = store.patience, replace(store.patience, tries=2, read_s=0.2)
    for place in (to, tmp_path / "second"):
        server.tricks, store.patience = [trick] * 10, hasty if trick == "silent" else usual
        with pytest.raises(error, match=message):
            store.pull(name, place)
        assert not place.exists()
        assert beside(place) == []
        server.tricks, store.patience = [], usual
        assert store.pull(name, to) == served
        served.verify(to)


@pytest.mark.parametrize("trick", ["silent", "503", "closed"])
def test_a_server_that_does_not_answer_is_told_within_ten_seconds_and_without_the_password(
    trick: str, server: Any, make_artifact: Any, tmp_path: Path
) -> None:
    server.trick = trick
    address = server.address if trick != "closed" else "http://127.0.0.1:9"
    store = Store(address.replace("//", "//user:pass@word@"))
    start = time.monotonic()
    with pytest.raises(UnreachableError, match=r"does not answer .*check AMOEBA_MLFLOW_URI") as caught:
        store.pull("tiny--x86", tmp_path / "device")
    assert time.monotonic() - start < 10
    assert address in str(caught.value)
    assert "user" not in str(caught.value)
    assert "word" not in str(caught.value)
