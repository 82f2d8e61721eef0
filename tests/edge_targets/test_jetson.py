"""Jetson packages: the ONNX against torch, the checks before the engine, and our side of TensorRT against a stand-in.

No engine is built here and no Jetson is run: `fixtures/fake_tensorrt` is not TensorRT.
"""

from __future__ import annotations

import ast
import ctypes
import errno
import importlib.metadata
import json
import mmap
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from fixtures.fake_cuda import FakeDriver
from fixtures.passages import answers_alike_from_one_reading, reads_on_after_going_back
from fixtures.questions import make_questions
from fixtures.tiny import FAMILIES, VOCABULARY, make_model, write_base
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from transformers import PreTrainedModel

import edge_targets
from components.mixed import MixedConfig, MixedForCausalLM
from components.selection import LayerCut
from components.shape import AnyShape, Shape, parse_shape
from edge_targets import _device, _onnx_blocks, _tensorrt
from edge_targets._device import cuda_memory, facts, tensorrt_engine
from edge_targets._device.bench import bench
from edge_targets._device.greedy import PREFILL_TOKENS
from edge_targets._device.tensorrt_engine import EngineError, Fingerprint, Plan, engine_path
from edge_targets._device.tensorrt_runner import TensorRtRunner, load
from edge_targets._rounding import Rounded, calibrated
from edge_targets._target import Grid, PackageError, PackageRequest
from edge_targets._tensorrt_operators import SUPPORTED, unsupported

JETSONS = tuple(name for name in edge_targets.names() if name.startswith("jetson_"))
TARGET = "jetson_orin_nano"
CONTEXT = 96
WHOLE = Shape(4, 100)
TOKENS = torch.randint(2, VOCABULARY, (40,), generator=torch.Generator().manual_seed(4)).tolist()
STAND_IN = Path(__file__).parents[1] / "fixtures" / "fake_tensorrt"
SCRIPT = Path(_device.__file__).parent / "build_engine.sh"
MAKE_APART = tensorrt_engine._make_apart
BLOCK = 64
TEXT_WT = np.random.default_rng(1).integers(2, VOCABULARY, (4, 32)).astype(np.int32)


def pack(
    checkpoint: Path, out: Path, quantization: str = "fp16", context: int = CONTEXT, shape: AnyShape = WHOLE
) -> Path:
    out.mkdir()
    request = PackageRequest(checkpoint, shape, quantization, context, TEXT_WT)
    return edge_targets.load(TARGET).package(request, out).folder


def torch_logits(model: PreTrainedModel, tokens: list[int]) -> NDArray[np.float32]:
    with torch.no_grad():
        logits: NDArray[np.float32] = model(torch.tensor([tokens])).logits[0].float().numpy()
    return logits


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return make_model(tied=False)


@pytest.fixture(scope="module")
def checkpoint(model: PreTrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("checkpoint"), model)


@pytest.fixture(scope="module")
def package(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack(checkpoint, tmp_path_factory.mktemp("packages") / "fp16")


@pytest.fixture(scope="module")
def runner(package: Path) -> TensorRtRunner:
    return load(package, 1)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    """A driver of CUDA that is none."""
    driver = FakeDriver()
    monkeypatch.setattr(cuda_memory, "ctypes", SimpleNamespace(**{**vars(ctypes), "CDLL": lambda name: driver}))
    return driver


@pytest.fixture
def tensorrt(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """The stand-in under TensorRT's name, memory of this machine for the GPU's, and an empty engine cache.

    Engines are built in this process, where a test may change what they are built with.
    """
    monkeypatch.syspath_prepend(str(STAND_IN))
    monkeypatch.setenv("AMOEBA_ENGINES", str(tmp_path / "engines"))
    monkeypatch.setattr(tensorrt_engine, "_make_apart", tensorrt_engine._make)
    import tensorrt

    yield tensorrt
    del sys.modules["tensorrt"]


@pytest.fixture
def apart(tensorrt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines are built as on a device: in another process, which has the stand-ins too."""
    monkeypatch.setattr(tensorrt_engine, "_make_apart", MAKE_APART)
    monkeypatch.setenv("PYTHONPATH", str(STAND_IN))


# The ONNX file


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_s_logits_are_torch_s_but_for_float16(family: str, tied: bool, tmp_path: Path) -> None:
    model = make_model(family, tied=tied)
    given = load(pack(write_base(tmp_path, model), tmp_path / "package"), 1).logits(TOKENS)
    wanted = torch_logits(model, TOKENS)
    assert given.dtype == np.float32
    np.testing.assert_allclose(given, wanted, atol=0.01 * float(np.abs(wanted).max()))
    assert (given.argmax(-1) == wanted.argmax(-1)).mean() >= 0.95


def test_a_model_whose_weights_are_float16_numbers_is_met_ten_times_closer(tmp_path: Path) -> None:
    model = make_model(tied=False).half().float()
    given = load(pack(write_base(tmp_path, model), tmp_path / "package"), 1).logits(TOKENS)
    assert np.abs(given - torch_logits(model, TOKENS)).mean() < 0.002


def test_what_the_cache_holds_answers_like_reading_everything_anew(runner: TensorRtRunner) -> None:
    text = list(TOKENS[:9])
    for token in runner.generate(text, 12, to_the_end=True):
        assert int(runner.logits(text)[-1].argmax()) == token
        text.append(token)
    assert len(text) == 21


def test_reading_in_pieces_has_the_logits_of_reading_at_once(
    runner: TensorRtRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = runner.logits(TOKENS)
    monkeypatch.setattr("edge_targets._device.greedy.PREFILL_TOKENS", 7)
    np.testing.assert_allclose(runner.logits(TOKENS), whole, atol=0.02)


def test_two_generations_in_turns_do_not_disturb_each_other(runner: TensorRtRunner) -> None:
    alone = [list(runner.generate(prompt, 10, to_the_end=True)) for prompt in (TOKENS[:7], [9, 8])]
    in_turns = zip(*(runner.generate(prompt, 10, to_the_end=True) for prompt in (TOKENS[:7], [9, 8])), strict=True)
    assert [list(tokens) for tokens in zip(*in_turns, strict=True)] == alone


def test_a_passage_that_goes_back_reads_on_as_if_it_had_never_left(runner: TensorRtRunner) -> None:
    reads_on_after_going_back(runner, list(TOKENS[:7]), tolerance=0.02)


def test_choices_that_go_on_from_one_reading_are_as_likely_as_each_read_anew(runner: TensorRtRunner) -> None:
    answers_alike_from_one_reading(runner, make_questions(), tolerance=0.02)


def mixed(family: str, *neurons: int) -> tuple[MixedForCausalLM, AnyShape]:
    """One layer without an FFN, one without attention, two widths."""
    cuts = (LayerCut(0, True, neurons[0]), LayerCut(1, True, 0), LayerCut(2, False, neurons[1]), LayerCut(3, True, 64))
    base = make_model(family)
    torch.manual_seed(1)
    model = MixedForCausalLM(MixedConfig.of(base.config, type(base).__name__, cuts)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            parameter.copy_(1 + 0.2 * noise if "norm" in name else 0.15 * noise)
    return model, parse_shape("h40c24")


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_a_mixed_shape_answers_like_its_float_checkpoint(family: str, tmp_path: Path) -> None:
    model, shape = mixed(family, 128, 88)
    runner = load(pack(write_base(tmp_path, model), tmp_path / "package", shape=shape), 1)
    wanted = torch_logits(model, TOKENS)
    np.testing.assert_allclose(runner.logits(TOKENS), wanted, atol=0.02 * float(np.abs(wanted).max()))
    text = list(TOKENS[:9])
    for token in runner.generate(text, 6, to_the_end=True):
        assert int(runner.logits(text)[-1].argmax()) == token
        text.append(token)


def restored(model: PreTrainedModel, checkpoint: Path) -> PreTrainedModel:
    """The model with every matrix of a layer as its 4-bit codes give it back."""
    copy = deepcopy(model)
    request = PackageRequest(checkpoint, WHOLE, "int4", CONTEXT, TEXT_WT)
    for name, one in calibrated(request, Grid(4, BLOCK, positive=True, scales="float16")).items():
        scales_NB = one.scales_NB.astype(np.float16).astype(np.float32)
        copy.get_parameter(f"{name}.weight").data = torch.from_numpy(one.codes_NK * np.repeat(scales_NB, BLOCK, axis=1))
    return copy


@pytest.mark.parametrize("family", FAMILIES)
def test_int4_is_what_its_codes_and_scales_give_back(family: str, tmp_path: Path) -> None:
    model = make_model(family)
    package = pack(write_base(tmp_path, model), tmp_path / "package", "int4")
    wanted = torch_logits(restored(model, tmp_path), TOKENS)
    np.testing.assert_allclose(load(package, 1).logits(TOKENS), wanted, atol=0.02 * float(np.abs(wanted).max()))
    graph = onnx.load(package / "model.onnx").graph
    assert {i.name for i in graph.initializer if i.data_type == TensorProto.FLOAT and len(i.dims) == 2} == set()
    codes = [i for i in graph.initializer if i.data_type == TensorProto.INT4]
    assert len(codes) == 4 * 4  # four products a layer


def test_codes_and_scales_restore_a_weight_within_a_step() -> None:
    weight_NK = np.random.default_rng(0).normal(size=(5, 3 * BLOCK)).astype(np.float32)
    codes_NK, scales_NB = _onnx_blocks.nearest(weight_NK, 4, BLOCK)
    assert codes_NK.min() >= -8
    assert codes_NK.max() <= 7
    steps = np.repeat(np.abs(scales_NB), BLOCK, axis=1)
    assert (np.abs(codes_NK * np.repeat(scales_NB, BLOCK, axis=1) - weight_NK) <= 1.01 * steps).all()


def test_int4_has_no_scale_of_nothing_for_weights_of_next_to_nothing(tmp_path: Path) -> None:
    model = make_model()
    model.model.layers[1].mlp.up_proj.weight.data[:3] = 1e-9
    graph = onnx.load(pack(write_base(tmp_path, model), tmp_path / "package", "int4") / "model.onnx").graph
    scales = [numpy_helper.to_array(one) for one in graph.initializer if one.name.endswith(".scales")]
    assert len(scales) == 4 * 4  # four products a layer
    assert min(one.min() for one in scales) >= np.finfo(np.float16).tiny


@pytest.mark.parametrize("scale", [0.0, -1.0, 1e-9])
def test_a_scale_that_tensorrt_does_not_take_is_refused(
    scale: float, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoilt(request: PackageRequest, grid: Grid) -> Mapping[str, Rounded]:
        return {
            name: replace(one, scales_NB=np.full_like(one.scales_NB, scale))
            for name, one in calibrated(request, grid).items()
        }

    monkeypatch.setattr(_tensorrt, "rounded_weights", spoilt)
    with pytest.raises(PackageError, match=r"has a scale of .* in float16; TensorRT takes positive ones"):
        pack(checkpoint, tmp_path / "package", "int4")


@pytest.mark.parametrize(("neurons", "nearest"), [(100, 128), (40, 64), (88, 64)])
def test_a_width_that_int4_cannot_take_is_refused_with_the_nearest(neurons: int, nearest: int, tmp_path: Path) -> None:
    model, shape = mixed("llama", neurons, 64)
    wanted = rf"down_proj takes {neurons} inputs; .* blocks of 64: .* the nearest is {nearest}, or fp16"
    with pytest.raises(PackageError, match=wanted):
        pack(write_base(tmp_path, model), tmp_path / "package", "int4", shape=shape)


def test_a_weight_beyond_float16_is_refused(tmp_path: Path) -> None:
    model = make_model()
    model.model.layers[1].mlp.up_proj.weight.data[3, 3] = 1e5
    with pytest.raises(PackageError, match="up_proj holds 100000; float16 ends at 65504"):
        pack(write_base(tmp_path, model), tmp_path / "package")


def test_a_quantization_nobody_offers_is_refused_with_those_that_are(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="no quantization 'int8'; it offers fp16, int4"):
        pack(checkpoint, tmp_path / "package", "int8")


# Operators


@pytest.mark.parametrize("quantization", ["fp16", "int4"])
def test_a_graph_has_only_operators_and_types_that_tensorrt_s_parser_lists(
    quantization: str, checkpoint: Path, tmp_path: Path
) -> None:
    model = onnx.load(pack(checkpoint, tmp_path / "package", quantization) / "model.onnx")
    assert list(unsupported(model)) == []
    onnx.checker.check_model(model, full_check=True)
    assert {node.op_type for node in model.graph.node} <= SUPPORTED.keys()


def one_node(operator: str, kind: int, domain: str = "") -> Any:
    values = [helper.make_tensor_value_info(name, kind, [2, 2]) for name in ("x", "y")]
    node = helper.make_node(operator, ["x"], ["y"], name="the_node", domain=domain)
    imports = [helper.make_opsetid("", 18), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(helper.make_graph([node], "one", values[:1], values[1:]), opset_imports=imports)


@pytest.mark.parametrize(
    ("operator", "kind", "domain", "wanted"),
    [
        ("Det", TensorProto.FLOAT, "", "the_node: Det is not listed"),
        ("Sigmoid", TensorProto.DOUBLE, "", "Sigmoid is listed for BFLOAT16, FLOAT, FLOAT16, not for DOUBLE"),
        ("FastGelu", TensorProto.FLOAT, "com.microsoft", "FastGelu is not ONNX's own but com.microsoft's"),
    ],
)
def test_an_operator_or_type_that_is_not_listed_is_refused_by_name(
    operator: str, kind: int, domain: str, wanted: str
) -> None:
    with pytest.raises(PackageError, match=wanted):
        _tensorrt.check_operators(one_node(operator, kind, domain))


def test_x86_s_graph_would_be_refused_by_the_same_check(checkpoint: Path, tmp_path: Path) -> None:
    request = PackageRequest(checkpoint, Shape(4, 100), "int8", CONTEXT)
    folder = edge_targets.load("x86_avx2").package(request, tmp_path).folder
    with pytest.raises(PackageError, match=r"GatherBlockQuantized is not ONNX's own .* and \d+ more"):
        _tensorrt.check_operators(onnx.load(folder / "model.onnx"))


# The package


@pytest.mark.parametrize("name", JETSONS)
def test_every_jetson_s_package_is_complete_and_names_its_tensorrt(name: str, checkpoint: Path, tmp_path: Path) -> None:
    target = edge_targets.load(name)
    folder = target.package(PackageRequest(checkpoint, Shape(4, 100), "fp16", CONTEXT), tmp_path).folder
    known = facts.read(folder)
    assert (known["target"], known["runner"], known["runtime"]["name"]) == (name, "tensorrt_runner", "onnxruntime")
    assert Plan.of(folder).tensorrt_from == ("10.13" if name == "jetson_thor" else "10.3")
    held = {path.name for path in (folder / "device").iterdir()}
    assert {"tensorrt_runner.py", "tensorrt_engine.py", "cuda_memory.py"} <= held
    assert not held & {"onnxruntime_runner.py", "executorch_runner.py"}
    assert (folder / "build_engine.sh").read_bytes() == SCRIPT.read_bytes()
    assert known["memory_mb"]["kv_cache"] == round(2 * 4 * CONTEXT * 2 * 16 * 2 / 1e6, 1)


def test_no_other_package_holds_what_only_tensorrt_needs(checkpoint: Path, tmp_path: Path) -> None:
    request = PackageRequest(checkpoint, Shape(4, 100), "int8", CONTEXT)
    folder = edge_targets.load("x86_avx2").package(request, tmp_path).folder
    assert not {path.stem for path in (folder / "device").iterdir()} & {*facts.ONLY_FOR, "tensorrt_runner"}


@pytest.mark.parametrize("quantization", ["fp16", "int4"])
def test_the_same_checkpoint_packaged_twice_gives_the_same_bytes(
    quantization: str, checkpoint: Path, tmp_path: Path
) -> None:
    first, second = (pack(checkpoint, tmp_path / time, quantization) for time in ("one", "two"))
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(second) for path in second.rglob("*") if path.is_file())
    assert all((first / file).read_bytes() == (second / file).read_bytes() for file in files)


def device(
    package: Path, *arguments: str, script: str = "run.py", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the package's own code where nothing else of ours can be imported."""
    blocked = "import sys, runpy; sys.modules.update(edge_targets=None, components=None, flows=None, registry=None)"
    start = f"sys.path.insert(0, {str(package)!r}); runpy.run_path({str(package / script)!r}, run_name='__main__')"
    command = [sys.executable, "-P", "-c", f"{blocked}; {start}", *arguments]
    environment = {**os.environ, **environment}
    return subprocess.run(command, cwd=package.parent, env=environment, capture_output=True, text=True, check=False)


def test_a_package_answers_alone_and_says_once_what_it_runs_on(package: Path) -> None:
    done = device(package, "--prompt", "w5 w6", "--max-tokens", "4", "--threads", "1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert done.stderr.count("not on TensorRT: TensorRT's Python package is not installed") == 1


def test_without_either_runtime_one_line_says_why_neither_answers(package: Path, tmp_path: Path) -> None:
    stock = tmp_path / "stock"
    stock.mkdir()
    (stock / "tensorrt.py").write_text('__version__ = "8.6.2"\n')
    (stock / "onnxruntime.py").write_text("raise ModuleNotFoundError(\"No module named 'onnxruntime'\")\n")
    done = device(package, "--prompt", "w5", PYTHONPATH=str(stock))
    assert done.returncode == 2
    assert done.stderr == (
        "error: not on TensorRT: TensorRT here is 8.6.2; the package is made for 10.3 and newer, below 11; "
        "not on ONNX Runtime: its runtime is missing (No module named 'onnxruntime'); package.json names its version\n"
    )


def test_a_model_that_neither_runtime_loads_is_refused_with_both_reasons(package: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(package, tmp_path / "copy")
    (copy / "model.onnx").write_text("no model")
    with pytest.raises(
        PackageError, match=r"not on TensorRT: .* is not installed; .* not on ONNX Runtime: .* cannot load"
    ):
        load(copy, 1)


def test_a_package_measures_itself_alone(package: Path, tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    done = device(package, "--runs", "3", "--new-tokens", "4", "--threads", "1", "--out", str(out), script="bench.py")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(out.read_text())["latency"]["tpot_ms_samples"]) == 3


def test_device_code_is_python_3_10_which_jetpack_6_has() -> None:
    for source in Path(_device.__file__).parent.glob("*.py"):
        ast.parse(source.read_text(), feature_version=(3, 10))
        assert "file_digest" not in source.read_text().replace("`hashlib.file_digest`", ""), source.name


# The engine, with a stand-in for TensorRT


def test_with_the_stand_in_figures_name_it_and_count_the_gpu_s_memory(
    tensorrt: Any, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TensorRtRunner, "gpu_memory_mb", 1e6)
    figures = bench(package, load(package, 1), 1, 1, 4, lambda done, total: None)
    assert figures["runs_on"] == f"TensorRT {tensorrt.__version__}"
    assert figures["latency"]["peak_memory_mb"] > 1e6


def test_with_the_stand_in_answers_are_those_of_onnx_runtime(
    tensorrt: Any, package: Path, runner: TensorRtRunner, capsys: pytest.CaptureFixture[str]
) -> None:
    on_engine = load(package, 1)
    assert on_engine.runs_on.startswith("TensorRT")
    assert "building TensorRT's engine" in capsys.readouterr().err
    np.testing.assert_array_equal(on_engine.logits(TOKENS), runner.logits(TOKENS))
    for prompt, new in ((TOKENS[:9], 20), ([5], 3), (TOKENS, CONTEXT - len(TOKENS))):
        given = list(on_engine.generate(prompt, new, to_the_end=True))
        assert given == list(runner.generate(prompt, new, to_the_end=True))
        assert len(given) == new


def test_with_the_stand_in_a_prompt_of_several_chunks_fits_the_profiles(
    tensorrt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(layers=1)
    model.config.max_position_embeddings = 1200
    folder = pack(write_base(tmp_path, model), tmp_path / "package", context=1200, shape=Shape(1, 100))
    tokens = (TOKENS * 30)[: 2 * PREFILL_TOKENS + 5]
    given = load(folder, 1).logits(tokens)
    monkeypatch.setattr(tensorrt_engine, "installed_version", lambda: None)
    np.testing.assert_array_equal(given, load(folder, 1).logits(tokens))


def test_with_the_stand_in_memory_is_given_back_with_its_passage(
    tensorrt: Any, driver: FakeDriver, package: Path
) -> None:
    list(load(package, 1).generate(TOKENS[:9], 5, to_the_end=True))
    assert driver.held == {}


def test_with_the_stand_in_the_gpu_s_memory_is_the_engine_its_two_contexts_and_the_most_that_buffers_took(
    tensorrt: Any, driver: FakeDriver, package: Path, tmp_path: Path
) -> None:
    on_engine = load(package, 1)
    (engine,) = (tmp_path / "engines").iterdir()
    loaded = engine.stat().st_size + 2 * tensorrt.Engine.device_memory_size_v2
    assert on_engine.gpu_memory_mb == loaded / 1e6
    for tokens in (TOKENS, TOKENS[:5]):
        on_engine.logits(tokens)
    assert driver.held == {}
    assert driver.most_held > 2 * 4 * CONTEXT * 2 * 16 * 2  # keys and values of four layers
    assert on_engine.gpu_memory_mb == (loaded + driver.most_held) / 1e6


def test_on_onnx_runtime_no_memory_of_a_gpu_is_counted(runner: TensorRtRunner) -> None:
    assert runner.gpu_memory_mb == 0


def test_with_the_stand_in_a_full_gpu_is_one_clear_error(tensorrt: Any, driver: FakeDriver, package: Path) -> None:
    runner = load(package, 1)
    driver.memory = 100
    with pytest.raises(PackageError, match=r"cuMemAlloc_v2 failed with 2: out of memory"):
        runner.logits(TOKENS)


def test_with_the_stand_in_an_engine_is_built_once_and_again_where_anything_differs(
    tensorrt: Any,
    driver: FakeDriver,
    package: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def built() -> bool:
        load(package, 1)
        return "building" in capsys.readouterr().err

    monkeypatch.setattr(tensorrt_engine, "_KEPT", 9)
    assert built()
    assert not built()
    monkeypatch.setattr(tensorrt, "__version__", "10.3.1")
    assert built()
    driver.capability = (11, 0)
    assert built()
    driver.name = "Another"
    assert built()
    driver.multiprocessors = 16
    assert built()
    driver.total_memory = 65_900_000_000
    assert built()
    driver.total_memory -= 4096
    assert not built()
    release = tmp_path / "nv_tegra_release"
    release.write_text("# R36 (release), REVISION: 4.3\nmore\n")
    monkeypatch.setattr(tensorrt_engine, "TEGRA_RELEASE", release)
    assert built()
    assert not built()
    assert len(list((tmp_path / "engines").iterdir())) == 7


def test_an_engine_is_built_in_a_process_of_its_own(
    apart: None, tensorrt: Any, package: Path, runner: TensorRtRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt, "Builder", never)
    on_engine = load(package, 1)
    assert on_engine.runs_on.startswith("TensorRT")
    np.testing.assert_array_equal(on_engine.logits(TOKENS), runner.logits(TOKENS))


def test_a_package_builds_its_engine_wherever_it_is_and_keeps_it_where_it_is_told(
    package: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(package, tmp_path / "packages" / "model")
    (copy.parent / "device").mkdir()
    (copy.parent / "device" / "__init__.py").write_text("raise SystemExit('not the package's')")
    environment = {"PYTHONPATH": str(STAND_IN), "AMOEBA_ENGINES": "engines"}
    for builds in (1, 0):
        done = device(copy, "--prompt", "w5 w6", "--max-tokens", "4", "--threads", "1", **environment)
        assert done.returncode == 0, done.stderr
        assert "not on TensorRT" not in done.stderr
        assert done.stderr.count("building TensorRT's engine") == builds
    assert len(list((copy.parent / "engines").iterdir())) == 1
    assert not list(copy.rglob("*.pyc"))


@pytest.mark.parametrize(
    ("builder", "wanted"),
    [
        ('__version__ = "8.6.2"', "ended with 2: TensorRT here is 8.6.2; the package is made for 10.3 and newer"),
        ("import os\nos.write(2, b'too much\\n')\nos.kill(os.getpid(), 9)", "ended with -9: too much"),
    ],
)
def test_who_wanted_an_engine_hears_the_last_words_of_the_process_that_should_have_built_it(
    builder: str,
    wanted: str,
    apart: None,
    tensorrt: Any,
    package: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "tensorrt.py").write_text(builder)
    monkeypatch.setenv("PYTHONPATH", str(other))
    assert load(package, 1).runs_on.startswith("ONNX Runtime")
    assert f"not on TensorRT: building the engine {wanted}" in capsys.readouterr().err


def test_another_model_or_plan_is_another_fingerprint(package: Path, checkpoint: Path, tmp_path: Path) -> None:
    other = pack(checkpoint, tmp_path / "other", context=CONTEXT - 1)
    shutil.copytree(package, tmp_path / "copy")
    (tmp_path / "copy" / "model.onnx").write_bytes((package / "model.onnx").read_bytes() + b" ")
    digests = {Fingerprint.here(folder).digest for folder in (package, other, tmp_path / "copy")}
    assert len(digests) == 3


def test_a_build_that_is_stopped_leaves_no_engine(
    tensorrt: Any, package: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def stopped(descriptor: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", stopped)
    with pytest.raises(EngineError, match=r"cannot be kept in .*engines \(no space left\); AMOEBA_ENGINES may name"):
        tensorrt_engine.ready(package, apart=False)
    assert list((tmp_path / "engines").iterdir()) == []


def test_builds_with_one_process_id_keep_their_engines_apart(
    tensorrt: Any, package: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fsync = os.fsync

    def another_writes_meanwhile(descriptor: int) -> None:
        monkeypatch.setattr(os, "fsync", fsync)
        other = tensorrt_engine.ready(package, apart=False)
        assert other.read_bytes()
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", another_writes_meanwhile)
    placed = tensorrt_engine.ready(package, apart=False)
    assert placed.read_bytes().startswith(b'{"version"')
    assert [*(tmp_path / "engines").iterdir()] == [placed]


def cached(cache: Path, digit: str, suffix: str = "", hours: float = 0) -> Path:
    """A file of an engine whose digest is this digit all over, touched so many hours ago."""
    path = cache / f"{digit * 64}.engine{suffix}"
    path.write_text("an engine")
    os.utime(path, (0, time.time() - hours * 3600))
    return path


def test_a_build_removes_engines_long_unopened_and_what_killed_builds_left(
    tensorrt: Any, package: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cache = tmp_path / "engines"
    opened = tensorrt_engine.ready(package, apart=False)
    os.utime(opened, (0, 0))
    load(package, 1)
    new, old, oldest = (cached(cache, digit, hours=hours) for digit, hours in (("a", 1), ("b", 2), ("c", 3)))
    building, killed = cached(cache, "d", ".12", hours=23), cached(cache, "e", ".13", hours=25)
    others = cache / "yolo.engine"
    others.write_text("somebody else's")
    os.utime(others, (0, 0))
    monkeypatch.setattr(tensorrt, "__version__", "10.3.1")
    placed = tensorrt_engine.ready(package, apart=False)
    assert {*cache.iterdir()} == {placed, opened, new, building, others}
    assert not any(path.exists() for path in (old, oldest, killed))


def test_two_that_remove_the_same_engine_do_not_disturb_each_other(
    tensorrt: Any, package: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "engines").mkdir()
    for digit in "abcd":
        cached(tmp_path / "engines", digit)
    stat, unlink = Path.stat, Path.unlink

    def gone_before_it_is_looked_at(path: Path, **options: Any) -> os.stat_result:
        if path.name.startswith("a" * 64):
            unlink(path, missing_ok=True)
        return stat(path, **options)

    def gone_before_it_is_removed(path: Path, missing_ok: bool = False) -> None:
        unlink(path, missing_ok=True)
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "stat", gone_before_it_is_looked_at)
    monkeypatch.setattr(Path, "unlink", gone_before_it_is_removed)
    placed = tensorrt_engine.ready(package, apart=False)
    left = {*(tmp_path / "engines").iterdir()}
    assert placed in left
    assert len(left) == 3


def test_an_engine_is_opened_from_its_file_s_own_pages(
    tensorrt: Any, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []
    opens = tensorrt.Runtime.deserialize_cuda_engine
    monkeypatch.setattr(
        tensorrt.Runtime, "deserialize_cuda_engine", lambda self, engine: given.append(engine) or opens(self, engine)
    )
    assert load(package, 1).runs_on.startswith("TensorRT")
    (pages,) = given
    assert isinstance(pages, mmap.mmap)
    assert pages.closed


@pytest.mark.parametrize("engine", [b"", b"no engine"])
def test_an_engine_that_does_not_open_gives_way_to_onnx_runtime_with_what_to_do(
    engine: bytes, tensorrt: Any, package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tensorrt_engine.ready(package, apart=False)
    path.write_bytes(engine)
    assert load(package, 1).runs_on.startswith("ONNX Runtime")
    said = capsys.readouterr().err
    assert str(path) in said
    assert "remove it and build it again" in said


def never(*arguments: Any) -> Any:
    raise AssertionError("nothing is to be built")


@pytest.mark.parametrize("trouble", ["in the way", "full"])
def test_where_no_engine_can_be_kept_none_is_built_and_onnx_runtime_answers(
    trouble: str,
    tensorrt: Any,
    package: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def full(descriptor: int, start: int, size: int) -> None:
        assert size == sum((package / name).stat().st_size for name in facts.read(package)["model_files"])
        raise OSError(errno.ENOSPC, "No space left on device")

    if trouble == "full":
        monkeypatch.setattr(os, "posix_fallocate", full)
    else:
        (tmp_path / "engines").write_text("a file, where root may not make a folder either")
    monkeypatch.setattr(tensorrt, "Builder", never)
    runner = load(package, 1)
    assert runner.runs_on.startswith("ONNX Runtime")
    said = capsys.readouterr().err
    assert f"the engine cannot be kept in {tmp_path / 'engines'}" in said
    assert "AMOEBA_ENGINES may name another folder" in said
    assert "building" not in said


def test_who_has_no_home_is_asked_for_a_folder_and_needs_none_when_there_is_one(
    tensorrt: Any, package: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert load(package, 1).runs_on.startswith("TensorRT")
    monkeypatch.delenv("AMOEBA_ENGINES")
    capsys.readouterr()
    assert load(package, 1).runs_on.startswith("ONNX Runtime")
    wanted = "there is no folder to keep engines in (Could not determine home directory.); AMOEBA_ENGINES may name one"
    assert wanted in capsys.readouterr().err


def test_onnx_runtime_answers_under_whatever_name_it_was_installed(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(name: str) -> Any:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata.Distribution, "from_name", unknown)
    assert load(package, 1).runs_on.startswith(f"ONNX Runtime {onnxruntime.__version__} (")


def unstarted(logger: Any) -> Any:
    raise TypeError("pybind11::init(): factory function returned nullptr")


def test_without_a_gpu_tensorrt_is_not_asked_and_onnx_runtime_answers(
    tensorrt: Any, package: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(cuda_memory.ctypes, "CDLL", missing)
    monkeypatch.setattr(tensorrt, "Builder", unstarted)
    assert load(package, 1).runs_on.startswith("ONNX Runtime")
    said = capsys.readouterr().err
    assert "TensorRT 10.3.0 has no GPU here: libcuda.so.1 cannot be loaded" in said
    assert "building" not in said


@pytest.mark.parametrize("what", ["Builder", "Runtime"])
def test_a_tensorrt_that_does_not_start_gives_way_to_onnx_runtime(
    what: str, tensorrt: Any, package: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt, what, unstarted)
    assert load(package, 1).runs_on.startswith("ONNX Runtime")
    assert "TensorRT does not start (pybind11::init(): factory function returned nullptr)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("version", "wanted"),
    [
        ("8.6.2", "TensorRT here is 8.6.2; the package is made for 10.3 and newer, below 11"),
        ("11.0.0", "TensorRT here is 11.0.0"),
    ],
)
def test_a_tensorrt_the_package_is_not_made_for_is_said_and_onnx_runtime_answers(
    version: str,
    wanted: str,
    tensorrt: Any,
    package: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tensorrt, "__version__", version)
    runner = load(package, 1)
    assert runner.runs_on.startswith("ONNX Runtime")
    assert wanted in capsys.readouterr().err
    assert runner.logits([5, 6]).shape == (2, VOCABULARY)


def test_versions_count_as_numbers() -> None:
    plan = Plan("10.3", "11", 512, 2048)
    for version in ("10.3.0", "10.13.3.9", "10.3.0.30"):
        plan.check(version)


@pytest.mark.parametrize("context", [1, 2, 3, 96, 4096])
@pytest.mark.parametrize("profile", [0, 1])
def test_shapes_of_a_profile_grow_from_least_to_largest(context: int, profile: int) -> None:
    plan = Plan("10.3", "11", min(PREFILL_TOKENS, context), context)
    for name, shape in (("input_ids", (1, -1)), ("logits_at", (-1,)), ("past_key_values.0.key", (1, -1, 2, 16))):
        least, usual, most = plan.bounds(name, shape, profile)
        if profile == 1 and context == 1 and len(shape) == 4:
            continue  # a context of one token is never written to
        assert all(a <= b <= c for a, b, c in zip(least, usual, most, strict=True)), (name, least, usual, most)


# The script


def shellcheck() -> str:
    beside = Path(sys.executable).parent / "shellcheck"
    found = str(beside) if beside.is_file() else shutil.which("shellcheck")
    assert found, "shellcheck is not installed: pip install -c constraints.txt '.[dev]'"
    return found


def test_the_script_passes_shellcheck() -> None:
    done = subprocess.run([shellcheck(), str(SCRIPT)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def script(package: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the package's script, with this Python, which has no TensorRT unless PYTHONPATH brings the stand-in."""
    return subprocess.run(
        ["sh", str(package / "build_engine.sh"), *arguments],
        env={**os.environ, "PYTHON": sys.executable, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_dry_run_prints_the_fingerprint_that_python_gives(package: Path) -> None:
    done = script(package, "--dry-run", "--prompt", "w5")
    assert done.returncode == 0, done.stderr
    fingerprint = Fingerprint.here(package)
    assert f"fingerprint: {fingerprint.digest}\n" in done.stdout
    assert f"engine: {engine_path(fingerprint)} (not built yet)" in done.stdout
    assert "tensorrt   bad   not installed" in done.stdout
    assert "-m device.tensorrt_engine build\n" in done.stdout
    assert 'run.py --prompt "w5"\n' in done.stdout


def test_a_dry_run_builds_nothing(package: Path, tmp_path: Path) -> None:
    before = sorted(package.rglob("*.onnx*"))
    done = script(package, "--dry-run", PYTHONPATH=str(STAND_IN), AMOEBA_ENGINES=str(tmp_path / "engines"))
    assert done.returncode == 0, done.stderr
    assert "tensorrt   good  10.3.0" in done.stdout
    assert "versions   good" in done.stdout
    assert not (tmp_path / "engines").exists()
    assert sorted(package.rglob("*.onnx*")) == before


def test_without_what_is_needed_nothing_is_built_and_the_first_thing_missing_is_named(package: Path) -> None:
    done = script(package)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "fingerprint" not in done.stdout


def on_a_jetson(folder: Path) -> str:
    """A PATH on which this machine calls itself a Jetson."""
    folder.mkdir()
    (folder / "uname").write_text("#!/bin/sh\necho aarch64\n")
    (folder / "uname").chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def test_another_version_of_tensorrt_ends_the_script_with_the_versions_it_wants(package: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.mkdir()
    (old / "tensorrt.py").write_text('__version__ = "8.6.2"\n')
    done = script(package, PATH=on_a_jetson(tmp_path / "tools"), PYTHONPATH=str(old))
    assert done.returncode == 2
    assert "error: versions: error: TensorRT here is 8.6.2; the package is made for 10.3 and newer" in done.stderr


def test_the_script_ends_with_an_engine_where_the_checks_pass(package: Path, tmp_path: Path) -> None:
    engines = tmp_path / "engines"
    done = script(package, PATH=on_a_jetson(tmp_path / "tools"), PYTHONPATH=str(STAND_IN), AMOEBA_ENGINES=str(engines))
    assert done.returncode == 0, done.stderr
    (engine,) = engines.iterdir()
    assert done.stdout.rstrip().endswith(str(engine))
    assert engine.read_bytes().startswith(b'{"version": "10.3.0"')


def test_the_script_s_folders_are_meant_from_where_it_is_called(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = tmp_path / "caller"
    (caller / "bin").mkdir(parents=True)
    (caller / "bin" / "python").symlink_to(sys.executable)
    (caller / package.name).mkdir()
    named = {"PYTHON": "bin/python", "AMOEBA_ENGINES": "engines", "CDPATH": str(caller)}
    path = on_a_jetson(tmp_path / "tools")
    stands_in = os.pathsep.join([str(STAND_IN), *sys.path])
    monkeypatch.chdir(caller)
    done = script(package, PATH=path, PYTHONPATH=stands_in, **named)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith(".engine")
    assert len(list((caller / "engines").iterdir())) == 1
    assert not (package / "engines").exists()


def test_the_disk_of_the_cache_is_asked_for_room_and_only_where_an_engine_is_to_be_built(
    package: Path, tmp_path: Path
) -> None:
    engines, path = tmp_path / "disk" / "engines", on_a_jetson(tmp_path / "tools")
    engines.parent.mkdir()
    full = tmp_path / "tools" / "df"
    full.write_text('#!/bin/sh\nprintf "Filesystem 1048576-blocks Used Available\\n$2 9 4 5\\n"\n')
    environment = {"PATH": path, "PYTHONPATH": str(STAND_IN), "AMOEBA_ENGINES": str(engines)}
    full.chmod(0o755)
    refused = script(package, **environment)
    assert refused.returncode == 2
    assert f"error: disk: 5 MB are free in {engines.parent}, building takes up to 10" in refused.stderr
    full.chmod(0o644)
    assert script(package, **environment).returncode == 0
    full.chmod(0o755)
    assert script(package, **environment).returncode == 0


def test_an_unknown_argument_is_refused_with_those_there_are(package: Path) -> None:
    done = script(package, "--dryrun")
    assert done.returncode == 2
    assert "unknown argument --dryrun; there are --dry-run and --prompt TEXT" in done.stderr
