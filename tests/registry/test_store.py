"""Publishing and pulling under attack: real bytes changed where the registry keeps them, real publishers stopped."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pytest

from registry.errors import DamagedError, NoSpaceError, NotFoundError, RefusedError, RegistryError, UnreachableError
from registry.manifest import MANIFEST_FILE, MOST_MANIFEST_BYTES, Manifest, read_manifest
from registry.store import MANIFEST_TAG, PREVIOUS, PRODUCTION, Store, Version


class Killed(BaseException):
    """Stands for a process that ends here: no handler of ordinary errors sees it."""


def kept(version: Version) -> Path:
    """Where the registry keeps a version's bytes."""
    return Path(unquote(urlparse(version.source).path))


def beside(to: Path) -> list[str]:
    """What a pull left around its destination."""
    return sorted(path.name for path in to.parent.iterdir() if path.name.startswith(f".{to.name}"))


def flip(path: Path, place: int = 100) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_what_was_published_is_pulled_byte_for_byte(
    store: Store, name: str, make_artifact: Any, tmp_path: Path
) -> None:
    folder, made = make_artifact({"a folder/é ü+&=@.json": b"{}", "a folder/deep/er/x": b""})
    steps: list[tuple[int, int]] = []
    version = store.publish(
        folder,
        made,
        registered_model=name,
        tags={"key": "k", "shape": "d4w75"},
        progress=lambda *step: steps.append(step),
    )
    assert (version.registered_model, version.version, version.aliases) == (name, "1", (PRODUCTION,))
    assert version.manifest_digest == made.digest
    assert version.tags["key"] == "k"
    assert version.tags["amoeba.target"] == "x86"
    assert steps[-1] == (made.size, made.size)
    assert steps == sorted(steps)
    steps.clear()
    to = tmp_path / "device" / "model"
    assert store.pull(name, to, progress=lambda *step: steps.append(step)) == made
    assert steps[-1] == (made.size, made.size)
    read_manifest(to).verify(to)
    assert {entry.path: (to / entry.path).read_bytes() for entry in made.files} == {
        entry.path: (folder / entry.path).read_bytes() for entry in made.files
    }
    assert beside(to) == []


def test_publishing_ends_its_own_run_and_leaves_the_run_of_a_caller_open(
    store: Store, name: str, make_artifact: Any
) -> None:
    client = store.client()
    own = store.publish(*make_artifact(), registered_model=name)
    assert client.get_run(own.run_id).info.status == "FINISHED"
    given = client.create_run(store.experiment_id()).info.run_id
    version = store.publish(*make_artifact({"more": b"1"}), registered_model=name, run_id=given)
    assert version.run_id == given
    assert client.get_run(given).info.status == "RUNNING"


def test_a_second_version_moves_the_first_to_previous(store: Store, name: str, make_artifact: Any) -> None:
    artifacts = [make_artifact({"more": str(number).encode()}) for number in range(3)]
    for artifact in artifacts:
        store.publish(*artifact, registered_model=name)
    assert store.resolve(name).version == "3"
    assert store.resolve(name, PREVIOUS).version == "2"
    assert [(one.version, one.aliases) for one in store.versions(name)] == [
        ("3", (PRODUCTION,)),
        ("2", (PREVIOUS,)),
        ("1", ()),
    ]
    assert store.published(name, artifacts[2][1]) == store.resolve(name)
    assert store.published(name, artifacts[0][1]) is None


def test_a_candidate_leaves_production_alone(store: Store, name: str, make_artifact: Any) -> None:
    store.publish(*make_artifact(), registered_model=name)
    store.publish(*make_artifact({"more": b"1"}), registered_model=name, alias="candidate")
    assert store.resolve(name).version == "1"
    assert store.resolve(name, "candidate").version == "2"
    with pytest.raises(NotFoundError):
        store.resolve(name, PREVIOUS)


def test_two_artifacts_of_one_run_do_not_touch_each_other(
    store: Store, name: str, make_artifact: Any, tmp_path: Path
) -> None:
    run = store.client().create_run(store.experiment_id()).info.run_id
    first, second = make_artifact(), make_artifact({"model.onnx": b"other"})
    for artifact in (first, second):
        store.publish(*artifact, registered_model=name, run_id=run)
    assert store.pull(name, tmp_path / "1", "1") == first[1]
    assert store.pull(name, tmp_path / "2", "2") == second[1]


def test_publishing_the_same_manifest_again_uses_the_version_there_is(
    store: Store, name: str, make_artifact: Any
) -> None:
    artifact = make_artifact()
    first = store.publish(*artifact, registered_model=name)
    assert store.publish(*artifact, registered_model=name) == first
    assert len(store.versions(name)) == 1


def test_publishing_an_older_manifest_again_moves_the_alias_back_to_it(
    store: Store, name: str, make_artifact: Any
) -> None:
    old = make_artifact()
    store.publish(*old, registered_model=name)
    store.publish(*make_artifact({"more": b"1"}), registered_model=name)
    assert store.publish(*old, registered_model=name).version == "1"
    assert store.resolve(name, PREVIOUS).version == "2"


def test_a_damaged_version_is_not_used_again_but_published_anew(store: Store, name: str, make_artifact: Any) -> None:
    artifact = make_artifact()
    flip(kept(store.publish(*artifact, registered_model=name)) / "model.onnx")
    again = store.publish(*artifact, registered_model=name)
    assert again.version == "2"
    assert store.manifest(again) == artifact[1]


def test_a_folder_that_is_not_its_manifest_is_never_published(store: Store, name: str, make_artifact: Any) -> None:
    folder, made = make_artifact()
    flip(folder / "model.onnx")
    with pytest.raises(DamagedError, match=r"model\.onnx has SHA-256"):
        store.publish(folder, made, registered_model=name)
    assert name not in store.models()


STEPS = ("log_artifact", "create_registered_model", "create_model_version", "set_registered_model_alias")


@pytest.mark.parametrize(("step", "call"), [*((step, 0) for step in STEPS), ("log_artifact", 3), (STEPS[-1], 1)])
def test_a_publisher_killed_at_any_step_leaves_the_alias_and_the_next_run_ends_its_work(
    step: str, call: int, store: Store, name: str, make_artifact: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    old, new = make_artifact(), make_artifact({"more": b"1"})
    store.publish(*old, registered_model=name)
    client, calls = store.client(), iter(range(100))
    ordinary = getattr(client, step)

    def stopping(*arguments: Any, **options: Any) -> Any:
        if next(calls) == call:
            raise Killed
        return ordinary(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(client, step, stopping)
        with pytest.raises(Killed):
            store.publish(*new, registered_model=name)
    assert store.pull(name, tmp_path / "device") == old[1]
    store.publish(*new, registered_model=name)
    assert store.pull(name, tmp_path / "device") == new[1]
    assert store.manifest(store.resolve(name, PREVIOUS)) == old[1]
    assert len(store.versions(name)) == 2


def test_bytes_that_change_on_their_way_to_the_registry_get_no_version(
    store: Store, name: str, make_artifact: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = store.client()
    ordinary = client.log_artifact

    def garbling(run_id: str, path: str, parent: str) -> None:
        ordinary(run_id, path, parent)
        if path.endswith("model.onnx"):
            root = Path(urlparse(client.get_run(run_id).info.artifact_uri).path)
            flip(root / parent / "model.onnx")

    monkeypatch.setattr(client, "log_artifact", garbling)
    with pytest.raises(DamagedError, match=r"model\.onnx has SHA-256"):
        store.publish(*make_artifact(), registered_model=name)
    assert name not in store.models()


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
    "a short file": (lambda version: os.truncate(kept(version) / "model.onnx", 7), "has 7 bytes, wanted 16384"),
    "an empty file": (lambda version: os.truncate(kept(version) / "model.onnx", 0), "has 0 bytes, wanted 16384"),
    "a missing file": (lambda version: (kept(version) / "texts/LICENSE").unlink(), "no longer holds texts/LICENSE"),
    "a file that became a link": (_link, r"model\.onnx"),
    "no manifest": (lambda version: (kept(version) / MANIFEST_FILE).unlink(), r"no longer holds manifest\.json"),
    "no bytes at all": (lambda version: shutil.rmtree(kept(version)), r"no longer holds manifest\.json"),
    "another manifest": (lambda version: _replace_manifest(version, b"{}\n"), "not the one registered"),
    "a manifest with a path that leaves the folder": (_escape, "not the one registered"),
    "a manifest too large": (
        lambda version: _replace_manifest(version, b" " * (MOST_MANIFEST_BYTES + 1)),
        f"wanted 1 to {MOST_MANIFEST_BYTES}",
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_gets_the_final_name_and_nothing_is_left_after(
    attack: str, store: Store, name: str, make_artifact: Any, tmp_path: Path
) -> None:
    change, message = ATTACKS[attack]
    change(store.publish(*make_artifact(), registered_model=name))
    to = tmp_path / "device"
    with pytest.raises(DamagedError, match=message):
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
    change(store.publish(*make_artifact({"more": b"1"}), registered_model=name))
    with pytest.raises(DamagedError):
        store.pull(name, to)
    assert read_manifest(to) == old[1]
    old[1].verify(to)
    assert beside(to) == []


def test_a_manifest_that_was_registered_with_a_bad_path_is_refused(
    store: Store, name: str, make_artifact: Any, tmp_path: Path
) -> None:
    import hashlib

    version = store.publish(*make_artifact(), registered_model=name)
    _escape(version)
    digest = hashlib.sha256((kept(version) / MANIFEST_FILE).read_bytes()).hexdigest()
    store.client().set_model_version_tag(name, version.version, MANIFEST_TAG, digest)
    with pytest.raises(RefusedError, match=r"\.\./config\.json"):
        store.pull(name, tmp_path / "device")
    assert not (tmp_path / "device").exists()


def test_an_extra_file_in_the_registry_never_reaches_the_device(
    store: Store, name: str, make_artifact: Any, tmp_path: Path
) -> None:
    (kept(store.publish(*make_artifact(), registered_model=name)) / "more.sh").write_text("echo")
    manifest = store.pull(name, tmp_path / "device")
    manifest.verify(tmp_path / "device")
    assert not (tmp_path / "device" / "more.sh").exists()


def test_a_version_that_something_else_registered_is_not_pulled(store: Store, name: str, tmp_path: Path) -> None:
    client = store.client()
    client.create_registered_model(name)
    assert store.versions(name) == ()
    with pytest.raises(NotFoundError, match="it has none yet"):
        store.resolve(name)
    version = client.create_model_version(name, (tmp_path / "gone").as_uri()).version
    client.set_registered_model_alias(name, PRODUCTION, version)
    with pytest.raises(DamagedError, match="not whole"):
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


def test_what_is_no_pulled_artifact_is_never_replaced(
    store: Store, name: str, make_artifact: Any, tmp_path: Path
) -> None:
    store.publish(*make_artifact(), registered_model=name)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("Dear all")
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for taken in ("mine", "file", "link", "dangling"):
        with pytest.raises(RefusedError, match="holds no pulled artifact; choose another"):
            store.pull(name, tmp_path / taken)
    assert (tmp_path / "mine" / "letter.txt").read_text() == "Dear all"


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


def test_an_unknown_name_is_told_with_the_nearest_one(store: Store, name: str, make_artifact: Any) -> None:
    store.publish(*make_artifact(), registered_model=name)
    with pytest.raises(NotFoundError, match=f"has no model '{name}0'; did you mean {name}"):
        store.resolve(f"{name}0")
    with pytest.raises(NotFoundError, match="no version or alias '12'; it has production, 1"):
        store.resolve(name, "12")
    with pytest.raises(NotFoundError, match="no version or alias"):
        store.resolve(name, "9" * 40)
    assert store.find(name, MANIFEST_TAG, "0" * 64) is None
    assert store.find(f"{name}0", MANIFEST_TAG, "0" * 64) is None


def test_a_name_that_could_change_a_query_is_refused(store: Store, make_artifact: Any, tmp_path: Path) -> None:
    bad = "x' or name like '%"
    for ask in (
        lambda: store.versions(bad),
        lambda: store.resolve(bad),
        lambda: store.pull(bad, tmp_path / "device"),
        lambda: store.publish(*make_artifact(), registered_model=bad),
    ):
        with pytest.raises(RefusedError, match="no registry name"):
            ask()
    with pytest.raises(RefusedError, match="is no alias"):
        store.publish(*make_artifact(), registered_model="tiny", alias="latest")


@pytest.mark.parametrize("uri", ["file:///srv/mlruns", "file:mlruns", "mlruns", "/srv/mlruns"])
def test_a_file_store_is_refused_with_what_to_set(uri: str) -> None:
    with pytest.raises(RefusedError, match="set AMOEBA_MLFLOW_URI to sqlite"):
        Store(uri)


def test_a_database_that_does_not_open_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("not a database " * 100)
    (tmp_path / "folder.db").mkdir()
    start = time.monotonic()
    for file in ("text.db", "folder.db"):
        with pytest.raises(UnreachableError, match=r"does not answer .*check AMOEBA_MLFLOW_URI"):
            Store(f"sqlite:///{tmp_path / file}").models()
    assert time.monotonic() - start < 10


def test_a_database_without_an_artifact_root_keeps_its_artifacts_beside_itself(
    registry_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sqlite3.connect(registry_folder / "mlflow.db") as source, sqlite3.connect(tmp_path / "mlflow.db") as copy:
        source.backup(copy)
        copy.execute("UPDATE experiments SET name = 'other' WHERE name = 'amoeba'")
    monkeypatch.chdir(tmp_path)
    store = Store("sqlite:///mlflow.db")
    run = store.client().create_run(store.experiment_id())
    assert run.info.artifact_uri.startswith((tmp_path / "mlflow-artifacts").as_uri())


def test_telemetry_is_off_before_mlflow_is_imported() -> None:
    code = (
        "import os, sys; from registry.store import Store; Store('sqlite:///x.db');"
        "sys.exit('mlflow' in sys.modules or os.environ['MLFLOW_DISABLE_TELEMETRY'] != 'true')"
    )
    environment = {"PATH": os.environ["PATH"]}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


@pytest.fixture
def served(store: Store, name: str, server: Any, make_artifact: Any) -> Manifest:
    """A registered version whose bytes a server sends."""
    folder, made = make_artifact()
    (folder / MANIFEST_FILE).write_bytes(made.canonical())
    server.folder = folder
    client = store.client()
    client.create_registered_model(name)
    version = client.create_model_version(name, server.source, tags={MANIFEST_TAG: made.digest}).version
    client.set_registered_model_alias(name, PRODUCTION, version)
    return made


def test_a_version_is_pulled_from_an_honest_server(store: Store, name: str, served: Manifest, tmp_path: Path) -> None:
    assert store.pull(name, tmp_path / "device") == served
    served.verify(tmp_path / "device")


TRICKS = {
    "cuts the connection": (UnreachableError, "does not answer"),
    "sends less": (DamagedError, "has 5000 bytes, the manifest says 16384"),
    "sends more": (DamagedError, "has 16388 bytes, the manifest says 16384"),
    "sends other bytes": (DamagedError, r"model\.onnx has SHA-256"),
    "lists but does not send": (DamagedError, r"lists model\.onnx but does not send it"),
    "lists a path outside": (RegistryError, "refused"),
}


@pytest.mark.parametrize("trick", TRICKS)
def test_nothing_is_placed_or_lost_when_the_server(
    trick: str, store: Store, name: str, served: Manifest, server: Any, tmp_path: Path
) -> None:
    to, (error, message) = tmp_path / "device", TRICKS[trick]
    server.trick = trick
    with pytest.raises(error, match=message):
        store.pull(name, to)
    assert not to.exists()
    assert beside(to) == []
    server.trick = ""
    assert store.pull(name, to) == served
    (server.folder / "model.onnx").write_bytes(b"other")
    server.trick = trick
    with pytest.raises(RegistryError):
        store.pull(name, tmp_path / "second")
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
