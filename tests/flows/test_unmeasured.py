"""A target that nothing here can run, of a base of six layers: built, inspected and published as a candidate, figures predicted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fixtures.tiny import make_model, write_base
from fixtures.workspace import amoeba, make_workspace

TARGET = "android_vulkan"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unmeasured")
    (folder / "tiny-base").mkdir()
    write_base(folder / "tiny-base", make_model(layers=6))
    return make_workspace(folder / "workspace")


@pytest.fixture(scope="module")
def onboarded(workspace: Path) -> dict[str, Any]:
    done = amoeba(workspace, "onboard", "../tiny-base", "--profile", "tiny", "--target", TARGET, "--json")
    assert done.returncode == 0, done.stderr
    outcome: dict[str, Any] = json.loads(done.stdout)
    return outcome


def test_its_figures_are_predicted_and_its_quality_is_not_invented(onboarded: dict[str, Any]) -> None:
    (released,) = onboarded["released"]
    point = released["point"]
    assert point["measured_on"] == "predicted"
    assert point["perplexity"] is point["accuracy"] is point["accuracy_interval"] is None
    (chosen,) = (verdict for verdict in released["choice"]["verdicts"] if verdict["reason"] == "chosen")
    assert point["tpot_ms"] == chosen["candidate"]["cost"]["tpot_ms"]
    assert point["size_mb"] > 0


def test_it_is_a_candidate_and_not_production(workspace: Path, onboarded: dict[str, Any]) -> None:
    (released,) = onboarded["released"]
    assert released["alias"] == "candidate"
    refused = amoeba(workspace, "pull", "tiny-base", TARGET, "--to", "production")
    assert refused.returncode != 0
    assert not (workspace / "production").exists()


def test_it_is_pulled_with_what_was_found_in_it(workspace: Path, onboarded: dict[str, Any]) -> None:
    pulled = amoeba(workspace, "pull", "tiny-base", TARGET, "--version", "candidate", "--to", "candidate")
    assert pulled.returncode == 0, pulled.stderr
    facts = json.loads((workspace / "candidate" / "manifest.json").read_text())["facts"]
    assert facts["measurement"]["found"]["delegates"] == {"VulkanBackend": 1}
    assert "no Vulkan runtime" in facts["measurement"]["why"]


def test_a_second_run_publishes_nothing_and_says_that_it_was_not_measured_and_how_to_pull_it(
    workspace: Path, onboarded: dict[str, Any]
) -> None:
    again = amoeba(workspace, "onboard", "../tiny-base", "--profile", "tiny", "--target", TARGET)
    assert again.returncode == 0, again.stderr
    assert f"{TARGET} v{onboarded['released'][0]['version']} " in again.stdout
    assert "not measured" in again.stdout
    assert "predicted" in again.stdout
    assert f"amoeba pull tiny-base {TARGET} --version candidate --to" in again.stdout
    assert "not measured" in amoeba(workspace, "frontier", "tiny-base").stdout


@pytest.mark.parametrize("named", [["--target", TARGET], []])
def test_the_gate_says_why_it_could_not_measure_it_when_no_other_package_was_checked(
    workspace: Path, onboarded: dict[str, Any], named: list[str]
) -> None:
    asked = amoeba(workspace, "check", "tiny-base", *named, "--json")
    assert asked.returncode == 2
    (package,) = json.loads(asked.stdout)["packages"]
    assert package["verdict"] == "could not measure"
    assert "it runs on its device only: ExecuTorch's wheel has no Vulkan runtime" in package["reason"]
