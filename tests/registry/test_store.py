"""Publishing under attack: real bytes changed where the registry keeps them, real publishers stopped."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from fixtures.artifacts import beside, flip, kept, kept_at
from mlflow.store.entities import PagedList

import registry.server
from registry.errors import DamagedError, NotFoundError, RefusedError, RegistryError, UnreachableError
from registry.manifest import MANIFEST_FILE, read_manifest
from registry.publishing import place_of
from registry.store import MANIFEST_TAG, PREVIOUS, PRODUCTION, Store


class Killed(BaseException):
    """Stands for a process that ends here: no handler of ordinary errors sees it."""


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


def test_what_a_killed_publisher_left_of_the_same_upload_is_not_in_the_version(
    store: Store, name: str, make_artifact: Any, tmp_path: Path
) -> None:
    run = store.client().create_run(store.experiment_id()).info
    folder, manifest = make_artifact()
    (tmp_path / "left-half").write_text("ha")
    place = place_of(manifest, folder)
    store.client().log_artifact(run.run_id, str(tmp_path / "left-half"), place)
    store.publish(folder, manifest, registered_model=name, run_id=run.run_id)
    held = {Path(file.path).name for file in store.client().list_artifacts(run.run_id, place)}
    assert "manifest.json" in held
    assert "left-half" not in held


@pytest.mark.parametrize("killed", [False, True])
def test_who_publishes_the_same_from_another_folder_in_the_same_run_touches_no_upload_but_his_own(
    killed: bool, store: Store, name: str, make_artifact: Any, tmp_path: Path
) -> None:
    """As two clones at once; the second begins when the first has uploaded its files, and may be killed where it then is."""
    run = store.client().create_run(store.experiment_id()).info.run_id
    folder, manifest = make_artifact()
    clone = shutil.copytree(folder, tmp_path / "clone")

    def stop(done: int, total: int) -> None:
        if killed:
            raise Killed

    def interrupted(done: int, total: int) -> None:
        if done == total:
            with contextlib.suppress(Killed):
                store.publish(clone, manifest, registered_model=name, run_id=run, progress=stop)

    store.publish(folder, manifest, registered_model=name, run_id=run, progress=interrupted)
    versions = store.versions(name)
    assert len({version.source for version in versions}) == (1 if killed else 2)
    for version in versions:
        store.pull(name, tmp_path / version.version, version.version)
    store.publish(clone, manifest, registered_model=name, run_id=run)
    assert store.versions(name) == versions


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


@pytest.mark.parametrize("damaged", ["model.onnx", MANIFEST_FILE])
@pytest.mark.parametrize("damage", [flip, lambda path: path.unlink()], ids=["a bit", "lost"])
def test_a_damaged_version_is_not_used_again_but_published_anew(
    damaged: str, damage: Any, store: Store, name: str, make_artifact: Any, tmp_path: Path
) -> None:
    artifact = make_artifact()
    version = store.publish(*artifact, registered_model=name)
    assert store.published(name, artifact[1]) == version
    damage(kept(version) / damaged)
    assert store.published(name, artifact[1]) is None
    again = store.publish(*artifact, registered_model=name)
    assert again.version == "2"
    assert store.pull(name, tmp_path / "device") == artifact[1]


def test_a_version_that_is_no_longer_what_was_promoted_is_published_anew(
    store: Store, name: str, make_artifact: Any, tmp_path: Path
) -> None:
    artifact = make_artifact()
    version = store.publish(*artifact, registered_model=name)
    store.client().set_model_version_tag(name, version.version, MANIFEST_TAG, "ab" * 32)
    assert store.published(name, artifact[1]) is None
    assert store.publish(*artifact, registered_model=name).version == "2"
    assert store.pull(name, tmp_path / "device") == artifact[1]


def test_a_folder_that_is_not_its_manifest_is_never_published(store: Store, name: str, make_artifact: Any) -> None:
    folder, made = make_artifact()
    flip(folder / "model.onnx")
    with pytest.raises(DamagedError, match=r"model\.onnx has SHA-256"):
        store.publish(folder, made, registered_model=name)
    assert name not in store.models()


STEPS = ("log_artifact", "create_registered_model", "create_model_version", "set_registered_model_alias")


@pytest.mark.parametrize(
    ("step", "call", "promoted"),
    [
        *((step, 0, False) for step in STEPS[:3]),
        ("log_artifact", 3, False),
        ("create_model_version", 1, False),
        *((STEPS[3], call, True) for call in (0, 1)),
    ],
)
def test_a_publisher_killed_at_any_step_leaves_the_old_or_the_new_and_the_next_run_ends_its_work(
    step: str,
    call: int,
    promoted: bool,
    store: Store,
    name: str,
    make_artifact: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
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
    assert store.pull(name, tmp_path / "device") == (new[1] if promoted else old[1])
    store.publish(*new, registered_model=name)
    assert store.pull(name, tmp_path / "device") == new[1]
    assert store.manifest(store.resolve(name, PREVIOUS)) == old[1]
    assert len(store.versions(name)) == 2
    assert store.aliases(name) == {PRODUCTION: "2", PREVIOUS: "1"}


def test_bytes_that_change_on_their_way_to_the_registry_get_no_version(
    store: Store, name: str, make_artifact: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = store.client()
    ordinary = client.log_artifact

    def garbling(run_id: str, path: str, parent: str) -> None:
        ordinary(run_id, path, parent)
        if path.endswith("model.onnx"):
            flip(kept_at(f"{client.get_run(run_id).info.artifact_uri}/{parent}") / "model.onnx")

    monkeypatch.setattr(client, "log_artifact", garbling)
    with pytest.raises(DamagedError, match=r"model\.onnx has SHA-256"):
        store.publish(*make_artifact(), registered_model=name)
    assert name not in store.models()


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


def test_what_is_listed_is_listed_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def search(chosen: str | None, max_results: int, page_token: str | None) -> PagedList[int]:
        page = int(page_token or 0)
        return PagedList(range(page * 10, page * 10 + 10), str(page + 1) if page < 2 else None)

    monkeypatch.setattr(registry.server, "_MOST_PAGES", 3)
    assert registry.server._all(search) == list(range(30))
    monkeypatch.setattr(registry.server, "_MOST_PAGES", 2)
    with pytest.raises(RegistryError, match="lists more than 2 pages for name = 'x', and no more are read"):
        registry.server._all(search, "name = 'x'")


def test_a_server_that_sends_empty_pages_for_ever_is_not_asked_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.server, "_MOST_PAGES", 5)
    with pytest.raises(RegistryError, match="lists more than 5 pages"):
        registry.server._all(lambda chosen, max_results, page_token: PagedList([], "more"))


def test_of_two_first_publishers_of_a_registry_both_find_the_experiment(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, ordinary = store.experiment_id(), store.mlflow.get_experiment_by_name
    answers = iter([None])
    monkeypatch.setattr(store.mlflow, "get_experiment_by_name", lambda name: next(answers, ordinary(name)))
    assert store.experiment_id() == known


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
