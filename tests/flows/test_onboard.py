"""The whole pipeline as a user runs it, on a tiny base and one target: processes, DVC, Prefect and MLflow are real."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from fixtures.schemas import RELEASE
from fixtures.tiny import make_model, write_base
from fixtures.workspace import amoeba, dvc, git, make_workspace

import edge_targets
from edge_targets._device.machine import Machine, here

TARGET = "x86_avx512"
STAGES = ("data", "selection", "supernet")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onboard")
    (folder / "tiny-base").mkdir()
    write_base(folder / "tiny-base", make_model())
    return make_workspace(folder / "workspace")


@pytest.fixture(scope="module")
def key(workspace: Path) -> dict[str, Any]:
    """What signs everything that is published here."""
    made: dict[str, Any] = json.loads(amoeba(workspace, "keys", "new", "lab", "--out", "../keys", "--json").stdout)
    return made


def onboard(workspace: Path, key: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    command = ("onboard", "../tiny-base", "--profile", "tiny", "--target", TARGET, "--json")
    return amoeba(workspace, *command, AMOEBA_SIGNING_KEY=key["private"])


@pytest.fixture(scope="module")
def onboarded(workspace: Path, key: dict[str, Any]) -> dict[str, Any]:
    done = onboard(workspace, key)
    assert done.returncode == 0, done.stderr
    outcome: dict[str, Any] = json.loads(done.stdout)
    return outcome


@pytest.fixture(scope="module")
def pulled(workspace: Path, onboarded: dict[str, Any]) -> Path:
    done = amoeba(workspace, "pull", "tiny-base", TARGET, "--to", "pulled", "--json")
    assert done.returncode == 0, done.stderr
    return workspace / "pulled"


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".gitignore"
    }


def test_onboarding_releases_one_measured_artifact(onboarded: dict[str, Any]) -> None:
    assert onboarded["failed"] == {}
    (released,) = onboarded["released"]
    point = released["point"]
    assert released["target"] == TARGET
    assert point["measured_on"] == "host"
    assert point["perplexity"] > 1
    assert 0 <= point["accuracy_interval"][0] <= point["accuracy"] <= point["accuracy_interval"][1] <= 1
    assert point["size_mb"] > 0 < point["tpot_ms"]


def test_the_choice_is_explained_candidate_by_candidate(onboarded: dict[str, Any]) -> None:
    verdicts = onboarded["released"][0]["choice"]["verdicts"]
    assert [verdict["reason"] for verdict in verdicts].count("chosen") == 1
    assert len(verdicts) == (6 + 1) * 3  # shapes of the grid and the mixed one, quantizations of the target


def test_nothing_is_stale_and_nothing_is_unpushed_after_onboarding(workspace: Path, onboarded: dict[str, Any]) -> None:
    assert "up to date" in dvc(workspace, "status").stdout
    assert "in sync" in dvc(workspace, "status", "--cloud").stdout


def test_a_second_run_publishes_nothing_and_computes_nothing(
    workspace: Path, onboarded: dict[str, Any], key: dict[str, Any]
) -> None:
    def state() -> dict[str, int]:
        kept = [*(workspace / "artifacts").rglob("*.*"), *(workspace / ".amoeba" / "cache").rglob("*.safetensors")]
        kept += (workspace / ".amoeba" / "cache").rglob("*.json")
        kept += (workspace / ".amoeba" / "mlflow-artifacts").rglob("*.*")
        return {str(path): path.stat().st_mtime_ns for path in kept}

    before = state()
    again = onboard(workspace, key)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout) == onboarded
    assert state() == before


def test_a_second_clone_with_the_same_remote_gets_the_same_bytes(
    workspace: Path, onboarded: dict[str, Any], tmp_path: Path
) -> None:
    git(workspace, "add", "dvc.lock", "bases.yaml")
    git(workspace, "commit", "--quiet", "-m", "onboarded")
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", str(workspace), str(clone))
    dvc(clone, "remote", "modify", "--local", "local", "url", str(workspace / ".amoeba" / "dvc-remote"))
    fetched = dvc(clone, "pull")
    assert fetched.returncode == 0, fetched.stderr
    assert digests(clone / "artifacts" / "tiny-base") == digests(workspace / "artifacts" / "tiny-base")


def test_a_flipped_byte_in_the_remote_is_not_pulled(workspace: Path, onboarded: dict[str, Any], tmp_path: Path) -> None:
    remote, clone = tmp_path / "remote", tmp_path / "clone"
    shutil.copytree(workspace / ".amoeba" / "dvc-remote", remote)
    largest = max((path for path in remote.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    largest.chmod(0o644)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    git(tmp_path, "clone", "--quiet", str(workspace), str(clone))
    shutil.copy(workspace / "dvc.lock", clone / "dvc.lock")
    shutil.copy(workspace / "bases.yaml", clone / "bases.yaml")
    dvc(clone, "remote", "modify", "--local", "local", "url", str(remote))
    assert dvc(clone, "pull").returncode != 0


def test_versions_carry_aliases_and_lineage(workspace: Path, onboarded: dict[str, Any]) -> None:
    rows = json.loads(amoeba(workspace, "frontier", "tiny-base", "--json").stdout)
    by_model = {row["version"]["registered_model"]: row for row in rows}
    assert set(by_model) == {"tiny-base", f"tiny-base--{TARGET}"}
    for row in rows:
        assert "production" in row["version"]["aliases"]
        assert row["lineage"]["data_revision"].endswith(".dir")
        assert len(row["lineage"]["base_fingerprint"]) == 64


def test_what_is_published_says_what_the_schemas_ask_for(workspace: Path, onboarded: dict[str, Any]) -> None:
    manifests = sorted((workspace / ".amoeba" / "mlflow-artifacts").rglob("manifest.json"))
    assert len(manifests) == 2
    for path in manifests:
        RELEASE.validate(json.loads(path.read_text()))
    (bill,) = (workspace / ".amoeba" / "mlflow-artifacts").rglob("bom.json")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill.read_text()) is None


def test_a_device_that_knows_the_key_pulls_what_it_signed_and_nothing_after_it_was_revoked(
    workspace: Path, onboarded: dict[str, Any], key: dict[str, Any], tmp_path: Path
) -> None:
    trust = {"AMOEBA_TRUST": str(tmp_path / "keys")}
    amoeba(workspace, "keys", "trust", key["public"], **trust)
    command = ("pull", "tiny-base", TARGET, "--to", str(tmp_path / "device"), "--json")
    done = amoeba(workspace, *command, **trust)
    assert json.loads(done.stdout)["signer"] == {"name": "lab", "fingerprint": key["fingerprint"]}, done.stderr
    amoeba(workspace, "keys", "revoke", "lab", "--reason", "lost", **trust)
    refused = amoeba(workspace, *command, **trust)
    assert (refused.returncode, "was revoked on" in refused.stderr) == (2, True)
    listed = amoeba(workspace, "frontier", "tiny-base", **trust)
    assert (listed.returncode, listed.stdout.count("refused: --json says why")) == (0, 2)


def test_lineage_leads_from_the_package_to_the_base(workspace: Path, onboarded: dict[str, Any]) -> None:
    steps = {
        step["step"]: step for step in json.loads(amoeba(workspace, "lineage", "tiny-base", TARGET, "--json").stdout)
    }
    assert list(steps) == ["base", "data", "selection", "supernet", "subnet", "package", "manifest"]
    assert steps["supernet"]["what"] == "tiny-base version 1 (production)"
    assert [len(steps[name]["digest"]) for name in ("base", "subnet", "package", "manifest")] == [64] * 4


def test_the_supernets_run_carries_parameters_lineage_and_the_curve(workspace: Path, onboarded: dict[str, Any]) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{workspace / '.amoeba' / 'mlflow.db'}")
    run = client.get_run(client.get_model_version("tiny-base", "1").run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["supernet.finetune.steps"] == "6"
    for tag in ("base_fingerprint", "data_revision", "git_commit", "versions"):
        assert run.data.tags[f"amoeba.{tag}"]
    curve = client.get_metric_history(run.info.run_id, "validation_perplexity.d2w50")
    assert [point.step for point in curve if point.step] == [3, 6]


def test_an_onboarding_ends_with_a_report_that_says_what_was_considered(
    workspace: Path, onboarded: dict[str, Any]
) -> None:
    said = (workspace / ".amoeba" / "reports" / "tiny-base" / "index.html").read_text()
    assert f"The full model in float has perplexity {onboarded['full_perplexity']:.1f}" in said
    verdicts = onboarded["released"][0]["choice"]["verdicts"]
    assert f"{len(verdicts)} candidates considered." in said
    assert said.count("answers 100.0 %") == 0  # random weights know nothing


def test_a_report_is_made_again_from_the_registry_alone_byte_for_byte(
    workspace: Path, onboarded: dict[str, Any]
) -> None:
    for folder in ("one", "two"):
        done = amoeba(workspace, "report", "tiny-base", "--out", f"reports/{folder}", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["logged"] is True
    assert digests(workspace / "reports" / "one") == digests(workspace / "reports" / "two")
    unknown = amoeba(workspace, "report", "tiny-bse", "--out", "nowhere")
    assert (unknown.returncode, "did you mean tiny-base?" in unknown.stderr) == (2, True)
    assert not (workspace / "nowhere").exists()


def test_mlflow_prefect_and_dvc_show_the_same_figures(workspace: Path, onboarded: dict[str, Any]) -> None:
    from mlflow.tracking import MlflowClient

    point = onboarded["released"][0]["point"]
    client = MlflowClient(f"sqlite:///{workspace / '.amoeba' / 'mlflow.db'}")
    run = client.get_run(client.get_model_version("tiny-base", "1").run_id)
    assert run.data.metrics[f"{TARGET}.production.perplexity"] == point["perplexity"]
    assert "report/index.html" in {file.path for file in client.list_artifacts(run.info.run_id, "report")}

    database = sqlite3.connect(workspace / ".amoeba" / "prefect" / "prefect.db")
    kept = dict(database.execute("select key, data from artifact where key is not null").fetchall())
    assert {"released-tiny-base", "frontier-tiny-base", "report-tiny-base"} <= set(kept)
    assert f"| {TARGET} | production | {point['shape']} |" in json.loads(kept["released-tiny-base"])

    shown = json.loads(dvc(workspace, "metrics", "show", "--json").stdout)
    (figures,) = shown[""]["data"].values()
    assert figures["data"][TARGET]["production"]["tpot_ms"] == point["tpot_ms"]
    plots = dvc(workspace, "plots", "show", "--json")
    assert plots.returncode == 0, plots.stderr
    drawn = json.loads(plots.stdout)
    assert set(drawn) == {"data"}
    assert len(drawn["data"]) == 2
    git(workspace, "add", "figures")
    git(workspace, "commit", "--quiet", "-m", "figures")
    path = workspace / "figures" / "metrics" / "tiny-base.json"
    path.write_text(path.read_text().replace(str(point["tpot_ms"]), str(point["tpot_ms"] + 1)))
    changed = json.loads(dvc(workspace, "metrics", "diff", "--json").stdout)
    (figures,) = changed.values()
    assert figures[f"{TARGET}.production.tpot_ms"]["diff"] == pytest.approx(1)
    git(workspace, "checkout", "--quiet", "figures")


def test_a_pulled_artifact_verifies_and_answers_offline(pulled: Path, workspace: Path) -> None:
    assert amoeba(workspace, "verify", "pulled").returncode == 0
    said = amoeba(pulled.parent, "run", "pulled", "--prompt", "w5 w6", "--max-tokens", "5", "--json")
    assert said.returncode == 0, said.stderr
    assert set(json.loads(said.stdout)) == {"prompt", "answer"}


def test_a_flipped_byte_in_a_pulled_artifact_is_found_and_not_run(
    pulled: Path, workspace: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(pulled, damaged)
    content = bytearray((damaged / "model.onnx").read_bytes())
    content[-100] ^= 1
    (damaged / "model.onnx").write_bytes(content)
    for verb in (["verify", str(damaged)], ["run", str(damaged), "--prompt", "w5"]):
        done = amoeba(workspace, *verb)
        assert done.returncode == 2
        assert "model.onnx has SHA-256" in done.stderr
        assert "Traceback" not in done.stderr


def test_the_gate_holds_on_what_was_just_published(workspace: Path, onboarded: dict[str, Any]) -> None:
    done = amoeba(workspace, "check", "tiny-base", "--candidate", "production", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    verdict = json.loads(done.stdout)
    assert verdict["verdict"] == "holds"
    (package,) = verdict["packages"]
    assert package["baseline"] == f"{package['candidate']} as published"
    assert {figure["name"] for figure in package["figures"]} == {"perplexity", "accuracy", "ttft_ms", "tpot_ms"}


def test_the_gate_finds_that_what_was_kept_of_another_day_was_better(
    workspace: Path, onboarded: dict[str, Any], tmp_path: Path
) -> None:
    asked = ("check", "tiny-base", "--candidate", "production", "--json")
    kept = json.loads(amoeba(workspace, *asked).stdout)
    (package,) = kept["packages"]
    evidence = package["measured"]["evidence"]
    evidence["nats"] = [value - 0.1 for value in evidence["nats"]]
    (tmp_path / "baseline.json").write_text(json.dumps(kept))
    reports = ("--junit", str(tmp_path / "gate.xml"), "--markdown", str(tmp_path / "gate.md"))
    summary = tmp_path / "summary.md"
    on_github = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(summary)}
    done = amoeba(workspace, *asked, "--baseline", str(tmp_path / "baseline.json"), *reports, **on_github)
    assert done.returncode == 1, done.stdout + done.stderr
    assert json.loads(done.stdout)["verdict"] == "regressed"
    assert '<failure type="regressed" message="perplexity ' in (tmp_path / "gate.xml").read_text()
    assert "::error title=tiny-base--x86_avx512::perplexity " in done.stderr
    assert summary.read_text() == (tmp_path / "gate.md").read_text()
    assert "❌ regressed" in summary.read_text()


def test_the_gate_says_when_there_is_nothing_to_measure(workspace: Path, onboarded: dict[str, Any]) -> None:
    done = amoeba(workspace, "check", "tiny-base", "--target", "nowhere", "--json")
    assert done.returncode == 2
    assert "did you mean" in done.stdout or "the registry has no model" in done.stdout


def test_levels_of_an_onboarded_base_chat_within_an_objective(workspace: Path, onboarded: dict[str, Any]) -> None:
    made = amoeba(workspace, "levels", "tiny-base", "--to", "levels")
    assert made.returncode == 0, made.stderr
    assert amoeba(workspace, "verify", "levels").returncode == 0
    points = json.loads((workspace / "levels" / "operating.json").read_text())["points"]
    assert {point["shape"] for point in points} >= {"d4w100"}
    assert points[0]["ttft"] == points[0]["tpot"] == 1.0
    for slo, said in (("100,100", "of the full model's time to first token"), ("1,1", "nothing meets this objective")):
        answered = amoeba(workspace, "chat", "levels", "--slo", slo, "--max-tokens", "5", given="w5 w6\n")
        assert answered.returncode == 0, answered.stderr
        assert said in answered.stderr
    refused = amoeba(workspace, "levels", "tiny-base", "--to", "levels")
    assert refused.returncode == 2
    assert "is there already" in refused.stderr


def test_what_a_device_measured_becomes_the_version_s_own_figures(
    workspace: Path, pulled: Path, tmp_path: Path
) -> None:
    out = tmp_path / "bench.json"
    measured = subprocess.run(
        [sys.executable, str(pulled / "bench.py"), "--runs", "3", "--new-tokens", "4", "--out", str(out)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert measured.returncode == 0, measured.stderr
    assert amoeba(workspace, "verify", "pulled").returncode == 0  # measuring left nothing behind
    out.write_text(json.dumps(of_a_server(json.loads(out.read_text()))))
    recorded = amoeba(workspace, "measured", str(out), "--json")
    assert recorded.returncode == 0, recorded.stderr
    after = json.loads(recorded.stdout)["after"]
    samples = json.loads(out.read_text())["latency"]["tpot_ms_samples"]
    assert after["measured_on"] == "device"
    assert after["tpot_ms"] == statistics.median(samples)
    rows = json.loads(amoeba(workspace, "frontier", "tiny-base", "--json").stdout)
    (point,) = [row["point"] for row in rows if row["point"]]
    assert point == after


@pytest.fixture(scope="module")
def figures(workspace: Path, pulled: Path) -> dict[str, Any]:
    done = amoeba(workspace, "bench", str(pulled), "--runs", "3", "--new-tokens", "4")
    assert done.returncode == 0, done.stderr
    read: dict[str, Any] = json.loads(done.stdout)
    assert read["machine"] == here().to_json()
    assert read["runs_on"].startswith("ONNX Runtime")
    return of_a_server(read)


def of_a_server(figures: dict[str, Any]) -> dict[str, Any]:
    """As if the machine of these tests had the instructions of the target, which it need not have."""
    return {**figures, "machine": Machine("linux", "x86_64", frozenset({"avx512f", "avx512_vnni"})).to_json()}


JETSON = {"target": "jetson_orin_nano", "runs_on": "ONNX Runtime 1.28.0 (CPUExecutionProvider)"}
ORIN = Machine("linux", "aarch64", frozenset(), 7600, "NVIDIA Jetson Orin Nano Developer Kit", (36, 4))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"machine": Machine("android", "aarch64").to_json()}, "it is for x86_64, this is aarch64"),
        ({"machine": Machine("linux", "x86_64", frozenset({"avx2"})).to_json()}, "lacks avx512f, avx512_vnni"),
        (
            {**JETSON, "machine": replace(ORIN, board="NVIDIA Jetson AGX Orin").to_json()},
            "of another device than jetson_orin_nano: it is for a Jetson Orin Nano, this is NVIDIA Jetson AGX Orin",
        ),
        (
            {**JETSON, "machine": ORIN.to_json()},
            "on which jetson_orin_nano runs where it must; wanted are those of TensorRT",
        ),
        ({"machine": {**ORIN.to_json(), "l4t": ["36", 4]}}, "is no file of `amoeba bench`"),
        ({"model_files": {"model.onnx": "0" * 64}}, "no published version for x86_avx512 holds the model"),
        ({"latency": {"ttft_ms_samples": {"9": [1, 1]}, "tpot_ms_samples": [1, 1]}}, "at least 3 runs, got 2"),
        ({"latency": {"ttft_ms_samples": {"9": [1] * 3}, "tpot_ms_samples": [1, 1, -1]}}, "positive number, got '-1'"),
        ({"format_version": 7}, "are of format 7; this version reads 2"),
        ({"target": "x86_avx513"}, "did you mean x86_avx512?"),
        ({"latency": None}, "is no file of `amoeba bench`"),
    ],
)
def test_figures_that_cannot_be_right_are_refused(
    workspace: Path, figures: dict[str, Any], tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    out = tmp_path / "bench.json"
    out.write_text(json.dumps({**figures, **changed}))
    refused = amoeba(workspace, "measured", str(out))
    assert refused.returncode == 2
    assert said in refused.stderr


def test_a_package_within_limits_of_one_s_own_is_a_candidate(workspace: Path, onboarded: dict[str, Any]) -> None:
    verdicts = onboarded["released"][0]["choice"]["verdicts"]
    (chosen,) = [verdict["candidate"] for verdict in verdicts if verdict["reason"] == "chosen"]
    limit = str(round(chosen["cost"]["memory_mb"] * 0.95, 3))
    made = amoeba(workspace, "package", "tiny-base", TARGET, "--max-memory-mb", limit, "--json")
    assert made.returncode == 0, made.stderr
    released = json.loads(made.stdout)
    assert any(verdict["reason"].endswith(f"over {limit}") for verdict in released["choice"]["verdicts"])
    rows = json.loads(amoeba(workspace, "frontier", "tiny-base", "--json").stdout)
    of_target = {row["version"]["version"]: row["version"]["aliases"] for row in rows if row["point"]}
    assert of_target[released["version"]] == ["candidate"]
    assert ["production"] in of_target.values()
    refused = amoeba(workspace, "package", "tiny-base", TARGET, "--max-memory-mb", "0.01")
    assert refused.returncode == 2
    assert "no subnet runs within 0.01 MB" in refused.stderr
    checked = json.loads(amoeba(workspace, "check", "tiny-base", "--json").stdout)
    (package,) = checked["packages"]
    assert package["candidate"] == f"version {released['version']}"
    assert package["baseline"] == "version 1"
    assert {figure["name"]: figure["pairs_of"] for figure in package["figures"]}["memory_mb"] == "runs"


def test_an_objective_needs_levels(workspace: Path, pulled: Path) -> None:
    done = amoeba(workspace, "chat", "pulled", "--slo", "60,80")
    assert done.returncode == 2
    assert "is no folder of levels" in done.stderr


def test_a_limit_that_nothing_published_meets_is_answered_from_the_supernet(
    workspace: Path, onboarded: dict[str, Any]
) -> None:
    limit = str(onboarded["released"][0]["point"]["tpot_ms"] / 10)
    ask = ("pull", "tiny-base", TARGET, "--max-latency-ms", limit, "--to", "tight", "--json")
    refused = amoeba(workspace, *ask)
    assert refused.returncode == 2
    assert f", over {float(limit):g}" in refused.stderr
    assert f"The supernet has one: {TARGET} " in refused.stderr
    assert not (workspace / "tight").exists()
    built = amoeba(workspace, *ask, "--build")
    assert built.returncode == 0, built.stderr
    given = json.loads(amoeba(workspace, "verify", "tight", "--json").stdout)
    assert json.loads(built.stdout)["manifest"] == given["manifest"]
    records = json.loads(amoeba(workspace, "history", "tiny-base", TARGET, "--json").stdout)
    assert records[0]["alias"] == "candidate"
    assert records[0]["manifest"] == given["manifest"]


def test_a_machine_is_given_the_best_that_runs_on_it(workspace: Path, onboarded: dict[str, Any]) -> None:
    done = amoeba(workspace, "pull", "tiny-base", "--auto", "--to", "auto", "--json")
    unsuited = edge_targets.load(TARGET).suits(here())
    if unsuited is None:
        assert json.loads(done.stdout)["target"] == TARGET
    else:
        assert f"{TARGET}: {unsuited}" in done.stderr


def kept_measurements(workspace: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (workspace / ".amoeba/cache/measurements").glob("*.json")}


def points_of(explored: dict[str, Any]) -> int:
    return sum(one["point"] is not None for part in ("members", "considered") for one in explored[part])


def test_a_frontier_is_explored_and_goes_on_where_it_was(workspace: Path, onboarded: dict[str, Any]) -> None:
    first = amoeba(workspace, "explore", "tiny-base", TARGET, "--points", "3", "--json")
    assert first.returncode == 0, first.stderr
    before, found = kept_measurements(workspace), json.loads(first.stdout)
    known = points_of(found)
    assert known >= 3
    again = amoeba(workspace, "explore", "tiny-base", TARGET, "--points", "3", "--json")
    assert json.loads(again.stdout) == found
    assert kept_measurements(workspace) == before
    more = amoeba(workspace, "explore", "tiny-base", TARGET, "--points", str(known + 1), "--json")
    assert more.returncode == 0, more.stderr
    assert f"{TARGET}: {known + 1}/{known + 1}, " in more.stderr
    after = kept_measurements(workspace)
    assert before.items() < after.items()
    assert len(after) == len(before) + 1
    assert points_of(json.loads(more.stdout)) == known + 1
    assert all(member["predicted"]["machine"] == "host" for member in found["members"])


def test_every_version_of_the_frontier_can_be_pulled_by_a_limit_that_it_meets(
    workspace: Path, onboarded: dict[str, Any]
) -> None:
    shown = amoeba(workspace, "explore", "tiny-base", TARGET, "--points", "1")
    assert "candidates were considered and not measured" in shown.stdout
    rows = json.loads(amoeba(workspace, "frontier", "tiny-base", "--json").stdout)
    fastest = min((row for row in rows if row["point"]), key=lambda row: row["point"]["tpot_ms"])
    limit = str(fastest["point"]["tpot_ms"] * 1.000001)
    done = amoeba(workspace, "pull", "tiny-base", TARGET, "--max-latency-ms", limit, "--to", "fastest", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads((workspace / "fastest" / "package.json").read_text())
    assert (facts["shape"], facts["quantization"]) == (fastest["point"]["shape"], fastest["point"]["quantization"])


def test_what_is_not_in_production_is_not_explored(workspace: Path, onboarded: dict[str, Any]) -> None:
    for target, said in (
        ("x86_avx2", "`amoeba onboard tiny-base --target x86_avx2` comes first"),
        ("android_vulkan", "packages for android_vulkan run on their device only"),
    ):
        refused = amoeba(workspace, "explore", "tiny-base", target)
        assert (refused.returncode, said in refused.stderr) == (2, True), refused.stderr


def test_a_target_and_auto_are_one_or_the_other(workspace: Path) -> None:
    for words in ((), (TARGET, "--auto")):
        done = amoeba(workspace, "pull", "tiny-base", *words, "--to", "neither")
        assert done.returncode == 2
        assert "name a target, one of `amoeba targets`, or ask for --auto" in done.stderr
