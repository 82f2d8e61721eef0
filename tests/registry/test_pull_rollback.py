"""Going back to what a pull replaced: verified first, offline, and right again after a kill at any rename."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import pytest
from fixtures.artifacts import FILES, beside, flip, register, write_artifact

from registry import placing
from registry.errors import DamagedError, NotFoundError, RefusedError, SignatureError
from registry.keys import KeyFile, make_key
from registry.manifest import MANIFEST_FILE, Manifest, read_manifest
from registry.store import Store
from registry.trust import Trust

NAME = "tiny--x86"


class Killed(BaseException):
    """Stands for a process that ends here: no handler of ordinary errors sees it."""


def pulled(folder: Path, content: bytes, model: str = "tiny") -> Manifest:
    """A folder as a pull leaves it."""
    made = write_artifact(folder, model, files={**FILES, "more": content})
    (folder / MANIFEST_FILE).write_bytes(made.canonical())
    return made


@pytest.fixture
def to(tmp_path: Path) -> Path:
    return tmp_path / "device"


@pytest.fixture
def old(to: Path) -> Manifest:
    return pulled(placing.previous_of(to), b"old")


@pytest.fixture
def new(to: Path) -> Manifest:
    return pulled(to, b"new")


def test_a_rollback_swaps_the_folder_with_its_previous_and_another_swaps_back(
    to: Path, old: Manifest, new: Manifest
) -> None:
    assert placing.roll_back(to, NAME) == old
    assert (read_manifest(to), read_manifest(placing.previous_of(to))) == (old, new)
    assert placing.roll_back(to, NAME) == new
    assert (read_manifest(to), read_manifest(placing.previous_of(to))) == (new, old)
    assert beside(to) == [".device.previous"]


def test_a_pull_and_a_rollback_work_together(store: Store, name: str, make_artifact: Any, to: Path) -> None:
    made = [make_artifact({"more": str(number).encode()}) for number in range(2)]
    for artifact in made:
        store.publish(*artifact, registered_model=name)
        store.pull(name, to)
    assert placing.roll_back(to, name) == made[0][1]
    store.pull(name, to)
    assert read_manifest(to) == made[1][1]
    assert read_manifest(placing.previous_of(to)) == made[0][1]


def test_a_damaged_previous_is_refused_and_the_folder_stays(to: Path, old: Manifest, new: Manifest) -> None:
    flip(placing.previous_of(to) / "model.onnx")
    with pytest.raises(DamagedError, match=r"model\.onnx has SHA-256"):
        placing.roll_back(to, NAME)
    assert read_manifest(to) == new


def test_there_is_nothing_to_go_back_to(to: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="nothing to go back to"):
        placing.roll_back(to, NAME)
    pulled(to, b"new")
    with pytest.raises(NotFoundError, match="pull an older --version"):
        placing.roll_back(to, NAME)
    pulled(tmp_path / "elsewhere", b"old")
    placing.previous_of(to).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NotFoundError, match="nothing to go back to"):
        placing.roll_back(to, NAME)


def test_another_models_previous_is_refused(to: Path, new: Manifest) -> None:
    pulled(placing.previous_of(to), b"old", model="other")
    with pytest.raises(RefusedError, match="one of other--x86"):
        placing.roll_back(to, NAME)
    assert read_manifest(to) == new


def roll_back_killed_at(step: int, to: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    renames, ordinary = iter(range(10)), Path.rename

    def stopping(path: Path, target: Path) -> Path:
        if next(renames) == step:
            raise Killed
        return ordinary(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", stopping)
        with pytest.raises(Killed):
            placing.roll_back(to, NAME)


@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_rollback_killed_at_any_rename_is_ended_by_the_same_command(
    step: int, to: Path, old: Manifest, new: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    roll_back_killed_at(step, to, monkeypatch)
    assert placing.roll_back(to, NAME) == old
    assert (read_manifest(to), read_manifest(placing.previous_of(to))) == (old, new)
    assert beside(to) == [".device.previous"]
    assert placing.roll_back(to, NAME) == new


@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_rollback_killed_at_any_rename_is_ended_or_undone_by_the_next_command(
    step: int, to: Path, old: Manifest, new: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    roll_back_killed_at(step, to, monkeypatch)
    placing.recover(to)
    found = read_manifest(to), read_manifest(placing.previous_of(to))
    assert found == ((new, old) if step == 0 else (old, new))
    found[0].verify(to)
    assert beside(to) == [".device.previous"]


@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_rollback_whose_rename_fails_is_not_begun_or_ended(
    step: int, to: Path, old: Manifest, new: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    renames, ordinary = iter(range(10)), Path.rename

    def failing(path: Path, target: Path) -> Path:
        if next(renames) == step:
            raise OSError(5, "Input/output error")
        return ordinary(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", failing)
        with pytest.raises(OSError, match="Input/output") if step == 0 else contextlib.nullcontext():
            placing.roll_back(to, NAME)
    found = read_manifest(to), read_manifest(placing.previous_of(to))
    assert found == ((new, old) if step == 0 else (old, new))
    found[0].verify(to)
    assert beside(to) == [".device.previous"]


def test_a_model_under_anothers_name_is_refused(
    store: Store, server: Any, name: str, make_artifact: Any, tmp_path: Path
) -> None:
    folder, made = make_artifact()
    server.folder = folder
    register(store, folder, made, server.source)
    client = store.client()
    client.create_registered_model(f"other-{name}")
    client.create_model_version(f"other-{name}", server.source, tags=store.resolve(name).tags)
    with pytest.raises(RefusedError, match=f"under other-{name} is one of {name}: another model's bytes"):
        store.pull(f"other-{name}", tmp_path / "device", "1")
    assert os.listdir(tmp_path) == [folder.name]
    with pytest.raises(RefusedError, match="another model's bytes"):
        store.publish(folder, made, registered_model=f"other-{name}")


def test_a_rollback_to_what_nobody_who_is_trusted_by_now_signed_replaces_nothing(
    to: Path, old: Manifest, new: Manifest, tmp_path: Path
) -> None:
    trust = Trust((KeyFile(make_key("lab", tmp_path / "keys")[0]).read().public,))
    with pytest.raises(SignatureError, match="is not signed"):
        placing.roll_back(to, NAME, trust)
    assert (read_manifest(to), read_manifest(placing.previous_of(to))) == (new, old)
