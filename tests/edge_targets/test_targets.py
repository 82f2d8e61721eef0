"""What every target promises, whoever wrote it; and one file is all it takes to be one."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.tiny import make_model, write_base

import edge_targets
from components import lifeline
from components.shape import Shape
from edge_targets import _package
from edge_targets.__main__ import main
from edge_targets._device import facts
from edge_targets._target import Budget, PackageError, PackageRequest
from flows import doctor
from flows.settings import WORKSPACE_FILES

PROJECT = Path(__file__).parents[2]
NAMES = edge_targets.names()
NEW_TARGET = '''"""Raspberry Pi 5, by ONNX Runtime."""

from functools import partial

from edge_targets import _onnx
from edge_targets._target import Budget, Device, Target

TARGET = Target(
    name="raspberry_pi_5",
    title="Raspberry Pi 5 (8 GB)",
    device=Device(machine="aarch64", cores=4, memory_mb=8192, bandwidth_gb_s=9.0, int8_gops=60.0),
    budget=Budget(max_tpot_percent=60.0),
    runtime="onnxruntime",
    extra="x86",
    quantizations=_onnx.QUANTIZATIONS,
    package=partial(_onnx.package, target="raspberry_pi_5"),
    runtime_modules=("numpy", "onnxruntime", "tokenizers"),
)
'''
FANNED_OUT = """
import json
from types import SimpleNamespace
from flows import onboard

class Enough(BaseException):
    pass

def stop(*_):
    raise Enough

asked = []
onboard.check_profile = onboard.check_numbers = onboard.ensure_space = onboard.declare = lambda *_: None
onboard.reproduce = onboard.register_supernet = lambda *_: None
onboard.find_base = lambda source: SimpleNamespace(name="base", fingerprint="", weights=0, folder=None, licence="")
onboard.build = SimpleNamespace(submit=lambda base, folder, target: asked.append(target))
onboard.measure_full_model = stop
try:
    onboard.onboard.fn("base")
except Enough:
    print(json.dumps(asked))
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("checkpoint"), make_model())


@pytest.mark.parametrize("name", NAMES)
def test_a_target_is_called_as_its_file_and_says_what_it_is(name: str) -> None:
    target = edge_targets.load(name)
    assert target.name == name
    assert target.title
    assert target.runtime
    extras = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert target.extra in extras, f"{name} names the extra {target.extra!r}, pyproject.toml has {', '.join(extras)}"


@pytest.mark.parametrize("name", NAMES)
def test_a_target_s_device_has_figures_to_predict_from(name: str) -> None:
    device = edge_targets.load(name).device
    assert device.cores >= 1
    assert 256 <= device.memory_mb <= 1_000_000
    assert 1 <= device.bandwidth_gb_s <= 2_000
    assert 1 <= device.int8_gops <= 1_000_000


@pytest.mark.parametrize("name", NAMES)
def test_a_target_s_budget_asks_for_something_that_its_device_has(name: str) -> None:
    target = edge_targets.load(name)
    time_ms, memory_mb = target.budget.limits(100.0, target.device.memory_mb)
    assert time_ms is None or 0 < time_ms <= 100, "a budget that the full shape meets chooses nothing"
    assert 0 < memory_mb <= target.device.memory_mb


def test_a_limit_of_nothing_is_a_limit() -> None:
    assert Budget(0.0, 0.0).limits(10.0, 8192) == (0.0, 0.0)
    assert Budget(None, 100.0).limits(10.0, 8192) == (None, 100.0)
    assert Budget().limits(10.0, 8192) == (None, 8192)


@pytest.mark.parametrize("name", NAMES)
def test_a_target_s_quantizations_say_what_they_cost(name: str) -> None:
    target = edge_targets.load(name)
    names = [quantization.name for quantization in target.quantizations]
    assert names
    assert len(set(names)) == len(names)
    for quantization in target.quantizations:
        assert target.quantization(quantization.name) is quantization
        assert 1 < quantization.linear_bits <= 32
        assert 1 < quantization.embedding_bits <= 32
        assert 1 <= quantization.perplexity_ratio < 10
        assert 0 < quantization.top_1 <= 1


@pytest.mark.parametrize("name", NAMES)
def test_a_target_packages_a_tiny_model_in_its_usual_quantization(name: str, checkpoint: Path, tmp_path: Path) -> None:
    target = edge_targets.load(name)
    request = PackageRequest(checkpoint, Shape(4, 100), target.quantizations[0].name, 64)
    folder = target.package(request, tmp_path).folder
    known = facts.read(folder)
    assert (known["target"], known["quantization"]) == (name, request.quantization)
    assert all((folder / file).stat().st_size for file in known["model_files"])
    assert (folder / "device" / f"{known['runner']}.py").is_file()
    if target.cannot_run_here is None:
        assert len(list(facts.load(folder, 1).generate([5, 6, 7], 4, to_the_end=True))) == 4


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_refused_by_name_before_any_target_s_work(value: float, tmp_path: Path) -> None:
    model = make_model()
    model.model.layers[1].mlp.up_proj.weight.data[3, 3] = value
    checkpoint = write_base(tmp_path, model)
    (out := tmp_path / "out").mkdir()
    text_WT = np.full((2, 16), 5, np.int32)
    for target in map(edge_targets.load, NAMES):
        for quantization in target.quantizations:
            request = PackageRequest(checkpoint, Shape(4, 100), quantization.name, 64, text_WT)
            with pytest.raises(
                PackageError, match=r"layers\.1\.mlp\.up_proj\.weight holds a number that is not finite"
            ):
                target.package(request, out)
            assert not list(out.iterdir())


def test_a_module_that_the_full_model_needs_and_that_is_missing_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "components.reference", None)
    monkeypatch.setattr(lifeline, "hold", lambda: None)
    monkeypatch.setattr("components.data.load_evaluation", lambda folder: ((), ()))
    asked = ["reference", "--checkpoint", "c", "--evaluation", "e", "--out", str(tmp_path / "out")]
    assert main(asked) == 2
    assert "error: reference needs the module components.reference: pip install" in capfd.readouterr().err


@pytest.mark.parametrize("name", NAMES)
def test_doctor_looks_for_what_a_target_needs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target = edge_targets.load(name)
    assert target.runtime_modules or target.cannot_run_here
    (fine,) = [finding for finding in doctor._targets() if finding.what == f"target {name}"]
    assert fine.fine or fine.remedy
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    (missing,) = [finding for finding in doctor._targets() if finding.what == f"target {name}"]
    for module in target.runtime_modules:
        assert module in missing.found
    if target.runtime_modules:
        assert f".[{target.extra}]" in missing.remedy


def test_doctor_finds_a_runtime_that_came_under_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", unknown)
    (found,) = [finding for finding in doctor._targets() if finding.what == "target x86_avx512"]
    assert (found.fine, found.found) == (True, edge_targets.load("x86_avx512").runtime)


@pytest.fixture(scope="module")
def with_one_more(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds a copy of the package with one more file in it."""
    folder = tmp_path_factory.mktemp("project")
    package = Path(edge_targets.__file__).parent
    shutil.copytree(package, folder / "edge_targets", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "edge_targets" / "raspberry_pi_5.py").write_text(NEW_TARGET)
    for name in WORKSPACE_FILES:
        (folder / name).touch()
    return folder


def python(folder: Path, *arguments: str) -> str:
    """Run Python where the copy comes before the project."""
    variables = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{PROJECT}", "AMOEBA_WORKSPACE": str(folder)}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_new_file_is_listed(with_one_more: Path) -> None:
    listed = json.loads(python(with_one_more, "-m", "flows.cli", "targets", "--json"))
    assert {target["name"] for target in listed} == {*NAMES, "raspberry_pi_5"}


def test_a_new_file_is_fanned_out_to(with_one_more: Path) -> None:
    assert sorted(json.loads(python(with_one_more, "-c", FANNED_OUT))) == sorted({*NAMES, "raspberry_pi_5"})


def test_a_new_file_is_tested(with_one_more: Path) -> None:
    options = ["-q", "-k", "raspberry_pi_5", "-c", str(PROJECT / "pyproject.toml"), "-p", "no:cacheprovider"]
    said = python(with_one_more, "-m", "pytest", *options, str(Path(__file__)))
    assert "6 passed" in said


FAMILIES = sorted({family for name in NAMES if (family := edge_targets.load(name).family)})


@pytest.mark.parametrize("family", FAMILIES)
def test_packages_of_a_family_differ_in_the_target_s_name_alone(family: str, checkpoint: Path, tmp_path: Path) -> None:
    targets = [edge_targets.load(name) for name in NAMES if edge_targets.load(name).family == family]
    assert len(targets) > 1
    assert len({target.quantizations for target in targets}) == 1
    folders = []
    for target in targets:
        out = tmp_path / target.name
        out.mkdir()
        request = PackageRequest(checkpoint, Shape(4, 100), target.quantizations[0].name, 64)
        folders.append(target.package(request, out).folder)
    first, *others = folders
    for target, other in zip(targets[1:], others, strict=True):
        renamed = tmp_path / f"{target.name}-renamed"
        renamed.mkdir()
        _package.rename(first, renamed, target.name)
        assert contents(renamed) == contents(other)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("generation", "config", "wanted"),
    [
        ({"eos_token_id": [2, 7]}, {"eos_token_id": 3}, [2, 7]),
        ({"eos_token_id": 0}, {"eos_token_id": 3}, [0]),
        ({"eos_token_id": None}, {"eos_token_id": 3}, [3]),
        ({"eos_token_id": []}, {"eos_token_id": [3]}, [3]),
        ({}, {"eos_token_id": 3}, [3]),
    ],
)
def test_what_ends_an_answer_is_the_generation_config_s_and_else_the_model_s(
    generation: dict[str, Any], config: dict[str, Any], wanted: list[int], tmp_path: Path
) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    assert _package.eos_token_ids(tmp_path, config) == wanted


@pytest.mark.parametrize("nothing", [None, []])
def test_a_model_that_would_never_stop_is_refused(nothing: object, tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": nothing}))
    with pytest.raises(PackageError, match="chat would never stop"):
        _package.eos_token_ids(tmp_path, {"eos_token_id": nothing})
