from __future__ import annotations

import importlib.metadata
import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from fixtures.artifacts import FILES, write_artifact
from fixtures.workspace import amoeba, make_workspace

import edge_targets
from components.frontier import Point
from components.shape import parse_shape
from edge_targets._device.command import NoRoomError
from flows import cli
from flows.choosing import Choice
from flows.cli_output import print_json
from flows.measured import MeasurementError, record
from flows.package import Released
from flows.report.make import make
from flows.settings import Settings
from flows.tables import packaged, releases
from registry.store import Version

VERBS = (
    "onboard",
    "package",
    "explore",
    "bench",
    "measured",
    "pull",
    "verify",
    "run",
    "chat",
    "check",
    "targets",
    "frontier",
    "lineage",
    "report",
    "doctor",
    "serve",
    "deploy",
    "bases add",
    "bases remove",
    "bases list",
    "promote",
    "rollback",
    "history",
    "gc",
    "keys new",
    "keys list",
    "keys trust",
    "keys revoke",
)
HEAVY = {
    "torch",
    "transformers",
    "mlflow",
    "prefect",
    "dvc",
    "onnxruntime",
    "executorch",
    "numpy",
    "rich",
    "pydantic",
    "cryptography",
}
OURS = {"flows", "components", "registry", "edge_targets"}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_with_an_example(verb: str, tmp_path: Path) -> None:
    done = amoeba(tmp_path, *verb.split(), "--help")
    assert done.returncode == 0
    assert f"amoeba {verb}" in done.stdout.split("Options")[0].split("Usage")[1]


@pytest.mark.parametrize(
    ("option", "said"), [("--help", "onboard"), ("--version", f"amoeba {importlib.metadata.version('amoeba-edge')}\n")]
)
def test_what_the_command_says_of_itself_imports_nothing_heavy(option: str, said: str) -> None:
    code = (
        f"import sys; sys.argv = ['amoeba', '{option}']\n"
        "from flows.cli import main\n"
        "try: main()\n"
        "except SystemExit: print(sorted(set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said in done.stdout
    loaded = set(done.stderr.strip("[]\n").replace("'", "").split(", "))
    assert not loaded & HEAVY


def test_every_file_of_edge_targets_is_a_target_of_its_own_name(tmp_path: Path) -> None:
    done = amoeba(tmp_path, "targets", "--json")
    listed = json.loads(done.stdout)
    assert tuple(target["name"] for target in listed) == edge_targets.names()
    assert {"x86_avx512", "x86_avx2", "android_arm64"} <= set(edge_targets.names())
    for target in listed:
        assert target["quantizations"]
        assert target["device"]["memory_mb"] > 0


def test_a_target_file_that_calls_itself_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    right = edge_targets.load("x86_avx512")
    monkeypatch.setattr("edge_targets.importlib.import_module", lambda name: type("Module", (), {"TARGET": right}))
    with pytest.raises(ValueError, match="calls its target 'x86_avx512'; it must be called as its file"):
        edge_targets.load("x86_avx2")


def test_the_doctor_finds_everything_in_a_workspace_and_what_is_missing_outside(tmp_path: Path) -> None:
    inside = amoeba(make_workspace(tmp_path / "workspace"), "doctor", "--json")
    found = {finding["what"]: finding for finding in json.loads(inside.stdout)}
    assert inside.returncode == 0, inside.stdout
    assert found["DVC remote"]["found"] == "local"
    assert found["registry"]["fine"]
    outside = amoeba(tmp_path, "doctor", "--json")
    assert outside.returncode == 1
    missing = [finding for finding in json.loads(outside.stdout) if not finding["fine"]]
    assert [finding["what"] for finding in missing] == ["workspace"]
    assert "AMOEBA_WORKSPACE" in missing[0]["remedy"]


def test_no_other_installed_distribution_ships_a_folder_of_our_names() -> None:
    owners = {name: set(importlib.metadata.packages_distributions().get(name, [])) - {"amoeba-edge"} for name in OURS}
    assert not any(owners.values()), owners


@pytest.mark.parametrize("package", sorted(OURS))
def test_every_package_says_that_it_is_typed(package: str) -> None:
    assert (Path(__file__).parents[2] / package / "py.typed").is_file()


def test_a_pull_goes_back_to_what_it_replaced_without_a_registry(tmp_path: Path) -> None:
    for folder, more in (("device", b"new"), (".device.previous", b"old")):
        made = write_artifact(tmp_path / folder, "tiny", files={**FILES, "more": more})
        (tmp_path / folder / "manifest.json").write_bytes(made.canonical())
    asked = ("pull", "tiny", "x86", "--to", "device", "--rollback", "--json")
    nowhere = {"AMOEBA_MLFLOW_URI": "http://127.0.0.1:9"}
    done = amoeba(tmp_path, *asked, **nowhere)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["manifest"] == made.digest
    assert (tmp_path / "device" / "more").read_bytes() == b"old"
    assert amoeba(tmp_path, *asked, **nowhere).returncode == 0
    assert (tmp_path / "device" / "more").read_bytes() == b"new"


def test_a_rollback_that_was_killed_is_ended_by_the_line_that_the_help_prints(tmp_path: Path) -> None:
    for folder, more in ((".device.aside", b"new"), (".device.previous", b"old")):
        made = write_artifact(tmp_path / folder, "tiny", files={**FILES, "more": more})
        (tmp_path / folder / "manifest.json").write_bytes(made.canonical())
    done = amoeba(tmp_path, "pull", "tiny", "--rollback", "--to", "device", AMOEBA_MLFLOW_URI="http://127.0.0.1:9")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "device" / "more").read_bytes() == b"old"


def test_going_back_needs_no_target_where_the_last_pull_was_for_another(tmp_path: Path) -> None:
    for folder, target in (("device", "x86_avx2"), (".device.previous", "android_arm64")):
        made = write_artifact(tmp_path / folder, "tiny", target)
        (tmp_path / folder / "manifest.json").write_bytes(made.canonical())
    done = amoeba(tmp_path, "pull", "tiny", "--rollback", "--to", "device", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["target"] == "android_arm64"


@pytest.mark.parametrize("more", [["--version", "3"], ["--auto"], ["--build"], ["--max-memory-mb", "100"]])
def test_going_back_takes_nothing_that_would_choose_another(tmp_path: Path, more: list[str]) -> None:
    done = amoeba(tmp_path, "pull", "tiny", "--rollback", "--to", "device", *more)
    assert done.returncode == 2
    assert "--rollback brings back what the last pull replaced" in done.stderr


def test_pulled_files_are_kept_in_the_users_cache_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AMOEBA_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/srv/caches")
    assert Settings().pulled.name == "amoeba-edge"
    monkeypatch.setenv("AMOEBA_CACHE", "/srv/elsewhere")
    monkeypatch.setenv("AMOEBA_CACHE_MEGABYTES", "5")
    assert Settings().pulled == Path("/srv/elsewhere")
    assert Settings().cache_megabytes == 5


def test_every_variable_that_is_a_users_to_set_is_in_a_document() -> None:
    project, of_ours = Path(__file__).parents[2], {"AMOEBA_ABOUT", "AMOEBA_WORKS_FOR", "AMOEBA_WORKS_IN"}

    def named(*files: Path) -> set[str]:
        return {name for file in files for name in re.findall("AMOEBA(?:_[A-Z]+)+", file.read_text())}

    read = named(*(path for folder in OURS for path in (project / folder).rglob("*") if path.suffix in (".py", ".sh")))
    assert "AMOEBA_ENGINES" in read
    assert read - of_ours <= named(project / "README.md", *(project / "docs").rglob("*.md"))


def test_a_variable_that_is_there_and_empty_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AMOEBA_")]:
        monkeypatch.delenv(name)
    unset = Settings()
    names = ("CACHE" if field == "pull_cache" else field.upper() for field in Settings.model_fields)
    for name in names:
        monkeypatch.setenv(f"AMOEBA_{name}", "")
    assert Settings() == unset


def test_a_workspace_that_is_none_is_told_and_nothing_is_made_there(tmp_path: Path) -> None:
    refused = amoeba(tmp_path, "frontier", AMOEBA_WORKSPACE=str(tmp_path / "typo"))
    assert (
        refused.returncode,
        f"AMOEBA_WORKSPACE is {tmp_path / 'typo'}, which is no workspace" in refused.stderr,
    ) == (
        2,
        True,
    ), refused.stderr
    assert not list(tmp_path.iterdir())


def test_a_device_needs_a_registry_and_no_workspace(tmp_path: Path) -> None:
    done = amoeba(tmp_path, "doctor", "--json", AMOEBA_MLFLOW_URI=f"sqlite:///{tmp_path / 'mlflow.db'}")
    found = {one["what"]: one for one in json.loads(done.stdout)}
    assert (found["workspace"]["fine"], found["workspace"]["remedy"]) == (True, "")
    assert found["registry"]["fine"]


def test_a_port_that_no_machine_has_is_refused(tmp_path: Path) -> None:
    refused = amoeba(make_workspace(tmp_path / "workspace"), "serve", "--port", "70000")
    assert (refused.returncode, "'--port'" in refused.stderr) == (2, True), refused.stderr


def test_a_machine_is_told_null_where_json_has_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"worse": math.nan, "within": (1.5, math.inf), "at": Path("here")})
    assert (
        capsys.readouterr().out == '{\n  "worse": null,\n  "within": [\n    1.5,\n    null\n  ],\n  "at": "here"\n}\n'
    )


def test_the_frontier_of_a_base_says_quality_with_its_interval_and_both_times_within_120_columns(
    capsys: pytest.CaptureFixture[str],
) -> None:
    point = Point("d30w100", "int4", 22.28, 0.617, (0.587, 0.646), 169.4, 9.62, 300.0, 103.0, "host")
    names = ("smollm2-135m", "smollm2-135m--android_arm64", "qwen--x86_avx2")
    versions = [Version(name, "1", ("production",), {}, "", "") for name in names]
    points = (
        None,
        point,
        replace(point, perplexity=None, accuracy=None, accuracy_interval=None, measured_on="predicted"),
    )
    releases(
        [
            {"version": version, "point": point, "lineage": {"data_revision": "3939f95fcbee4c5161a3d90ab68.dir"}}
            for version, point in zip(versions, points, strict=True)
        ]
    )
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 120
    (row,) = [line for line in lines if "android_arm64 v1" in line]
    cells = [cell.strip() for cell in row.split("│")[1:-1]]
    assert cells[2:] == ["d30w100", "int4", "103", "22.28", "61.7% [59%, 65%]", "169", "9.6", "host", "3939f95f"]
    assert [line.strip() for line in lines if "│" not in line and line[0].isalnum()] == ["smollm2-135m", "qwen"]
    assert any("supernet v1" in line for line in lines)


@pytest.mark.parametrize("alias", ["candidate", "production"])
def test_a_package_is_said_to_be_published_as_what_it_is_and_why_not_as_what_was_asked_for(
    alias: str, capsys: pytest.CaptureFixture[str]
) -> None:
    point = Point("d30w100", "8da4w", None, None, None, 169.4, 9.62, 300.0, 103.0, "predicted")
    choice = Choice("android_vulkan", parse_shape("d30w100"), "8da4w", 192, 300.0, ())
    packaged("tiny", alias, Released("android_vulkan", "tiny--android_vulkan", "3", "candidate", point, choice))
    shown = capsys.readouterr()
    assert "tiny: android_vulkan version 3, candidate" in map(str.strip, shown.out.splitlines())
    why = "it is candidate, not production: only its device runs it, so its figures are predicted, not measured"
    assert shown.err == (f"{why}\n" if alias == "production" else "")


def test_a_measurement_that_is_not_there_says_what_writes_one(tmp_path: Path) -> None:
    with pytest.raises(
        MeasurementError, match=r"none\.json cannot be read \(No such file or directory\); `amoeba bench"
    ):
        record(tmp_path / "none.json")


def test_a_report_is_not_written_over_a_file(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(
        ValueError, match=r"README\.md is a file, and a report is a folder of files; --out .*README-report"
    ):
        make("tiny", tmp_path / "README.md")


def test_a_registry_without_releases_says_what_makes_one(capsys: pytest.CaptureFixture[str]) -> None:
    releases([])
    assert "nothing is published yet; `amoeba onboard BASE` does that" in capsys.readouterr().err


def test_a_chat_that_fills_the_context_forgets_what_was_said_first(capsys: pytest.CaptureFixture[str]) -> None:
    def answer(messages: list[dict[str, str]], max_tokens: int) -> list[str]:
        if len(messages) > 3:
            raise NoRoomError("full")
        return [message["content"] for message in messages]

    said = [{"content": str(number)} for number in range(5)]
    assert cli._fitting(answer, said, 4) == ["2", "3", "4"]
    assert len(said) == 3
    assert "the oldest question and its answer are forgotten" in capsys.readouterr().err
    with pytest.raises(NoRoomError):
        cli._fitting(lambda messages, max_tokens: answer([*messages] * 4, max_tokens), said[:1], 4)
