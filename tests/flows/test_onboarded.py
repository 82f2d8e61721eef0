"""What is built from a base is built from what is recorded of it, or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from filelock import FileLock, Timeout
from fixtures.tiny import make_model, write_base

from components.base import BaseError, resolve
from flows import settings
from flows.data import StageError, content_of
from flows.onboarded import onboarded


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base in `tiny`, its data and supernet, and what is recorded of them."""
    monkeypatch.setattr(settings.settings(), "workspace", tmp_path)
    base = resolve(str(write_base(tmp_path / "tiny", make_model(layers=1))), tmp_path)
    stages = {}
    for stage in ("data", "supernet"):
        folder = tmp_path / "artifacts" / "tiny" / stage
        folder.mkdir(parents=True)
        (folder / "bytes").write_text(stage)
        stages[f"{stage}@tiny"] = {"outs": [{"md5": content_of(folder)}]}
    (tmp_path / "dvc.lock").write_text(json.dumps({"stages": stages}) + "\n")
    entry = {"source": base.source, "fingerprint": base.fingerprint, "profile": "tiny"}
    (tmp_path / "bases.yaml").write_text(json.dumps({"bases": {"tiny": entry}}))
    return tmp_path


def test_a_base_is_held_while_something_is_built_from_it(workspace: Path) -> None:
    held = FileLock(workspace / ".amoeba" / "onboarding" / "tiny.lock")
    with onboarded("tiny") as (base, origin):
        assert origin.fingerprint == base.fingerprint
        with pytest.raises(Timeout):
            held.acquire(timeout=0)
    held.acquire(timeout=0)
    held.release()


@pytest.mark.parametrize("stage", ["data", "supernet"])
@pytest.mark.parametrize("changed", ["altered", "gone"])
def test_a_folder_that_is_not_what_the_lock_file_says_is_not_built_from(
    workspace: Path, stage: str, changed: str
) -> None:
    file = workspace / "artifacts" / "tiny" / stage / "bytes"
    file.write_text("other") if changed == "altered" else file.unlink()
    with pytest.raises(StageError, match=f"dvc pull {stage}@tiny"), onboarded("tiny"):
        pass


def test_a_base_that_changed_since_is_not_built_from(workspace: Path) -> None:
    write_base(workspace / "tiny", make_model(layers=1, seed=1))
    with pytest.raises(BaseError, match="takes up the new one"), onboarded("tiny"):
        pass
