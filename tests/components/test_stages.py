"""A stage that is finished is there until DVC has it, and is computed again where anything that decides it changed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from fixtures.tiny import make_model, write_base
from fixtures.workspace import PROJECT

from components import stages
from components.base import Base, resolve
from components.selection import SelectionSettings
from components.stages import FINISHED, UNFINISHED, Stage

DEPENDS = "stages: {data: {do: {deps: [components/data.py, corpus, 'artifacts/${key}/before']}}}\n"


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """Of a workspace whose only stage counts how often it is computed."""
    monkeypatch.chdir(tmp_path)
    Path("dvc.yaml").write_text(DEPENDS)
    for name in ("components/data.py", "corpus/train.txt", "artifacts/tiny/before/x"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(name)
    root = Path("artifacts/tiny")
    base = Base("tiny", "tiny", "1", "f" * 64, "mit", tmp_path)
    numbers = {"precision": "float32", "data": {"seed": 0}}
    return Stage(base, "tiny", numbers, root / "data", root / "selection", root / "supernet", UNFINISHED)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    found: list[Path] = []

    def compute(stage: Stage) -> None:
        found.append(stage.memory)
        stage.memory.mkdir(parents=True, exist_ok=True)
        (stage.memory / "half").write_text("known so far")
        stage.data.mkdir(exist_ok=True)
        (stage.data / "tokens").write_text(f"made {len(found)}")

    monkeypatch.setattr(stages, "STAGES", {"data": compute})
    return found


def test_what_is_finished_is_not_computed_again_before_dvc_has_it(stage: Stage, computed: list[Path]) -> None:
    for _ in range(2):
        stages.run("data", stage)
        assert (stage.data / "tokens").read_text() == "made 1"
        (stage.data / "tokens").unlink()
    assert len(computed) == 1
    assert not computed[0].exists()


def test_what_is_finished_and_was_damaged_is_computed_again(stage: Stage, computed: list[Path]) -> None:
    stages.run("data", stage)
    (damaged,) = FINISHED.glob("*/tokens")
    damaged.write_text("mad3 1")
    stages.run("data", stage)
    assert (stage.data / "tokens").read_text() == "made 2"


@pytest.mark.parametrize(
    "changed", ["components/data.py", "corpus/train.txt", "artifacts/tiny/before/x", "number", "base"]
)
def test_whatever_decides_a_stage_is_in_its_name(stage: Stage, computed: list[Path], changed: str) -> None:
    stages.run("data", stage)
    if changed == "number":
        stage = replace(stage, numbers={"precision": "float32", "data": {"seed": 1}})
    elif changed == "base":
        stage = replace(stage, base=replace(stage.base, fingerprint="e" * 64))
    else:
        Path(changed).write_text("other")
    stages.run("data", stage)
    assert len(set(computed)) == 2


@pytest.mark.parametrize(
    ("profile", "layers", "depths"),
    [("quick", 6, (6, 5, 4)), ("full", 6, (6, 5, 4, 3)), ("quick", 1, (1,)), ("quick", 30, (30, 24, 20))],
)
def test_the_depths_of_every_profile_follow_from_the_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profile: str, layers: int, depths: tuple[int, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(PROJECT / "params.yaml", "params.yaml")
    base = resolve(str(write_base(tmp_path / "tiny", make_model(layers=layers))), tmp_path)
    entry = {"source": base.source, "fingerprint": base.fingerprint, "profile": profile}
    Path("bases.yaml").write_text(json.dumps({"bases": {"tiny": entry}}))
    numbers = Stage.of("tiny", profile).numbers
    assert numbers["supernet"]["depths"] == depths
    assert SelectionSettings(**numbers["selection"]).min_depth == depths[-1]


@pytest.mark.parametrize(
    ("section", "written", "told"),
    [
        ("finetune", {"learning_rate": "2e-4"}, ".learning_rate is '2e-4'; wanted a number, as 0.0002 is; YAML takes"),
        ("finetune", {"steps": 0}, ": finetune.steps must be at least 1, got 0"),
        ("adapters", {"ranks": 4}, ".ranks is not known; did you mean rank?"),
        ("adapters", {"mixing": "sum"}, ".mixing is 'sum'; wanted factors or product"),
    ],
)
def test_the_first_stage_refuses_what_a_later_one_would(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    section: str,
    written: dict[str, Any],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stages.lifeline, "hold", lambda: None)
    numbers = yaml.safe_load((PROJECT / "params.yaml").read_text())
    numbers["profiles"]["quick"]["supernet"][section] |= written
    Path("params.yaml").write_text(json.dumps(numbers))
    Path("bases.yaml").write_text("bases: {tiny: {source: nowhere, fingerprint: '0', profile: quick}}\n")
    assert stages.main(["data", "tiny", "--profile", "quick"]) == 2
    assert f"error: params.yaml: profiles.quick.supernet.{section}{told}" in capsys.readouterr().err


def test_what_a_team_finished_is_not_computed_again_by_dvc_whose_stage_runs_alone(
    stage: Stage, computed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for made in ("made 1", "made 2"):
        stages.run("data", stage)
        assert (stage.data / "tokens").read_text() == made
    monkeypatch.delenv("WORLD_SIZE")
    shutil.rmtree(stage.data)
    stages.run("data", stage)
    assert (stage.data / "tokens").read_text() == "made 2"
    assert len(computed) == 2


def test_a_team_is_waited_for_by_none_of_it_and_its_leader_alone_keeps_what_it_finished(
    stage: Stage, computed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    stages.run("data", stage)
    assert (stage.data / "tokens").read_text() == "made 1"
    assert not FINISHED.exists()
