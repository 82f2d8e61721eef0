"""What is pushed goes where it is set to go, and DVC's own settings stay as they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from fixtures.workspace import PROJECT, dvc, git

from components.stages import STAGES as STAGE_NAMES
from flows import data, doctor, settings
from flows.bases import Declared

BASE = Declared("tiny", "tiny", "0" * 64, "tiny")
STAGES = {
    stage: {"foreach": ["tiny"], "do": {"cmd": f"mkdir {stage} && echo {stage} > {stage}/made", "outs": [stage]}}
    for stage in STAGE_NAMES
}
DEFAULT = "[core]\n    remote = configured\n"
REMOTE = "['remote \"configured\"']\n    url = ../../nowhere\n    jobs = 3\n"


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """DVC's settings are the project's, and what an earlier AMOEBA_DVC_REMOTE left behind."""
    folder = tmp_path / "workspace"
    (folder / ".dvc").mkdir(parents=True)
    for name in ("config", ".gitignore"):
        (folder / ".dvc" / name).write_text((PROJECT / ".dvc" / name).read_text())
    for name in ("params.yaml", "bases.yaml"):
        (folder / name).touch()
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}))
    git(folder, "init", "--quiet")
    (folder / ".dvc" / "config.local").write_text(DEFAULT + REMOTE)
    monkeypatch.setattr(settings.settings(), "workspace", folder)
    monkeypatch.setattr(settings.settings(), "dvc_remote", None)
    return folder


def pushed(remote: Path) -> int:
    """Files and folders that it holds."""
    return len(list(remote.glob("files/md5/??/*")))


def test_a_remote_whose_place_is_set_keeps_what_else_is_set_of_it_and_becomes_no_default(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = workspace / ".dvc" / "config.local"
    local.write_text(REMOTE)
    monkeypatch.setattr(settings.settings(), "dvc_remote", str(tmp_path / "remote"))
    assert dvc(workspace, "repro").returncode == 0
    data.push(BASE)
    assert pushed(tmp_path / "remote") == 6
    kept = local.read_text()
    assert "jobs = 3" in kept
    assert "verify = true" in kept
    assert "[core]" not in kept


def test_a_remote_beside_the_workspace_is_found_from_wherever_the_command_runs(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "else" / "where").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "else" / "where")
    monkeypatch.setattr(settings.settings(), "dvc_remote", "../remote")
    assert dvc(workspace, "repro").returncode == 0
    data.push(BASE)
    assert pushed(tmp_path / "remote") == 6


def test_what_is_pushed_with_no_place_set_goes_to_the_workspace_s_own_again(workspace: Path) -> None:
    assert dvc(workspace, "repro").returncode == 0
    data.push(BASE)
    assert pushed(workspace / ".amoeba" / "dvc-remote") == 6


def test_the_doctor_names_the_remote_that_is_pushed_to(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor._remote(workspace) == doctor.Finding("DVC remote", True, "configured")
    (workspace / ".dvc" / "config").unlink()
    (workspace / ".dvc" / "config.local").write_text(REMOTE)
    found = doctor._remote(workspace)
    assert (found.fine, found.remedy) == (False, "git init, dvc init, and dvc remote add -d NAME URL")
    monkeypatch.setattr(settings.settings(), "dvc_remote", "s3://ours/dvc")
    assert doctor._remote(workspace).found == "s3://ours/dvc"


def test_a_password_in_the_remote_s_address_is_told_to_dvc_alone(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(settings.settings(), "dvc_remote", "https://amoeba:hidden@127.0.0.1:9/dvc")
    assert doctor._remote(workspace).found == "https://127.0.0.1:9/dvc"
    run, commands = data.run, []

    def refused(command: list[str], hear: Callable[[str], None], *where: Any) -> int:
        commands.append(command)
        hear(f"ERROR: unexpected error - 401, url={settings.settings().dvc_remote}\n")
        return 255

    monkeypatch.setattr(data, "run", refused)
    with pytest.raises(data.StageError, match=r"401, url=https://127\.0\.0\.1:9/dvc") as told:
        data.push(BASE)
    assert "hidden" in (workspace / ".dvc" / "config.local").read_text()
    monkeypatch.setattr(data, "run", run)
    monkeypatch.setattr(settings.settings(), "dvc_remote", "nowhere://amoeba:hidden@127.0.0.1:9/dvc")
    with pytest.raises(data.StageError, match="AMOEBA_DVC_REMOTE is no remote to DVC") as refusal:
        data.push(BASE)
    assert "hidden" not in f"{commands} {told.value} {refusal.value} {capfd.readouterr()}"


@pytest.mark.parametrize(("stage", "helps"), [("supernet", True), ("data", False)])
def test_who_runs_out_of_memory_in_training_is_told_what_takes_less(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, stage: str, helps: bool
) -> None:
    said = f"ERROR: failed to reproduce '{stage}@tiny': failed to run: python -m components.stages, exited with -9\n"

    def killed(command: list[str], hear: Callable[[str], None], *where: object) -> int:
        hear(said)
        return 255

    monkeypatch.setattr(data, "run", killed)
    with pytest.raises(data.PassingError, match="exited with -9") as told:
        data.reproduce(stage, BASE)
    assert ("finetune.accumulate in params.yaml" in str(told.value)) is helps
