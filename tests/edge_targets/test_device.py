"""A package runs and measures itself, with the code that is in it and nothing else of ours."""

from __future__ import annotations

import ast
import io
import json
import shutil
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fixtures.tiny import make_model, write_base
from numpy.typing import NDArray

import edge_targets
from components.shape import Shape
from edge_targets import _device
from edge_targets._device import command, facts
from edge_targets._device.bench import measure, peak_memory_mb, prompt_lengths
from edge_targets._target import PackageError, PackageRequest

CODE = Path(_device.__file__).parent


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    checkpoint = write_base(tmp_path_factory.mktemp("checkpoint"), make_model())
    out = tmp_path_factory.mktemp("package")
    target = edge_targets.load("x86_avx512")
    return target.package(PackageRequest(checkpoint, Shape(4, 100), "int8", 64), out).folder


def script(package: Path, name: str, *arguments: str, without: str = "") -> subprocess.CompletedProcess[str]:
    """Run a package's own script where nothing else of ours can be imported, nor what Windows does not have."""
    missing = ["edge_targets", "components", "flows", "registry", "resource", without]
    blocked = f"import sys, runpy; sys.modules.update(dict.fromkeys({missing}))"
    paths = f"sys.path.insert(0, {str(package)!r}); runpy.run_path({str(package / name)!r}, run_name='__main__')"
    command = [sys.executable, "-P", "-c", f"{blocked}; {paths}", *arguments]
    return subprocess.run(command, cwd=package.parent, capture_output=True, text=True, check=False)


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_device_code_imports_nothing_of_ours_but_itself() -> None:
    ours = {"components", "edge_targets", "flows", "registry"}
    for source in CODE.glob("*.py"):
        for node in ast.walk(ast.parse(source.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            assert not {name.split(".")[0] for name in names} & ours, source.name


def test_device_code_names_the_encoding_of_what_it_reads() -> None:
    for source in CODE.glob("*.py"):
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "read_text":
                assert ast.unparse(node).endswith(".read_text('utf-8')"), f"{source.name}:{node.lineno}"


def test_a_package_answers_alone(package: Path) -> None:
    before = files(package)
    done = script(package, "run.py", "--prompt", "hello", "--max-tokens", "4", "--threads", "1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert files(package) == before  # no compiled files, which a manifest does not list


def test_a_package_measures_itself_alone(package: Path, tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    done = script(package, "bench.py", "--runs", "3", "--new-tokens", "4", "--threads", "1", "--out", str(out))
    assert done.returncode == 0, done.stderr
    figures = json.loads(out.read_text())
    assert len(figures["latency"]["tpot_ms_samples"]) == 3
    assert figures["latency"]["ttft_ms_samples"].keys() == {"30"}
    assert figures["model_files"].keys() == {"model.onnx", "layers.data", "tables.data"}
    assert figures["latency"]["threads"] == 1
    assert "governor" in figures["host"]


def test_fewer_runs_than_the_registry_takes_are_refused_before_the_package_is_opened(
    package: Path, tmp_path: Path
) -> None:
    (copy := tmp_path / "copy").mkdir()
    shutil.copytree(package, copy, dirs_exist_ok=True)
    (copy / "model.onnx").write_bytes(b"no model")
    done = script(copy, "bench.py", "--runs", "2")
    assert (done.returncode, done.stderr) == (2, "error: got 2 runs; a measurement has at least 3\n")


def test_a_package_holds_its_own_runner_and_no_other(package: Path) -> None:
    held = {path.name for path in (package / "device").iterdir()}
    assert "onnxruntime_runner.py" in held
    assert "executorch_runner.py" not in held


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"format_version": 1}, "is of format 1; this version reads 2"),
        ({"runner": "os"}, "wants the runner 'os'; this version has"),
        ({"eos_token_ids": 2}, "holds no valid 'eos_token_ids'"),
    ],
)
def test_a_package_that_says_nonsense_is_refused(package: Path, tmp_path: Path, given: object, wanted: str) -> None:
    known = json.loads((package / "package.json").read_text())
    (tmp_path / "package.json").write_text(json.dumps({**known, **given}))  # type: ignore[dict-item]
    with pytest.raises(PackageError, match=wanted):
        facts.load(tmp_path, 1)


def test_a_broken_package_is_one_line_and_exit_2(package: Path, tmp_path: Path) -> None:
    done = script(package, "run.py", "--package", str(tmp_path), "--prompt", "hello")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("asked", [("run.py", "--prompt", "hello"), ("bench.py", "--runs", "3")], ids=["run", "bench"])
@pytest.mark.parametrize("module", ["onnxruntime", "numpy", "tokenizers"])
def test_a_module_that_is_missing_is_one_line_with_what_brings_it(
    module: str, asked: tuple[str, ...], package: Path
) -> None:
    done = script(package, *asked, without=module)
    version = json.loads((package / "package.json").read_text())["runtime"]["version"]
    wanted = f"onnxruntime=={version}" if module == "onnxruntime" else module
    assert (done.returncode, done.stderr) == (2, f"error: the module {module} is missing: pip install {wanted}\n")


def test_an_answer_is_written_in_any_language_whatever_the_output_s(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="cp1252"))

    def answer(given: Namespace) -> None:
        sys.stdout.write(given.prompt)
        sys.stdout.flush()

    assert command._call(answer, Namespace(prompt="→ 你好")) == 0
    assert written.getvalue().decode() == "→ 你好"


def test_a_conversation_that_fills_the_context_is_told_so_and_not_of_a_negative_length(package: Path) -> None:
    answers = command.Answers(package, 1)
    assert len("".join(answers.to([{"role": "user", "content": "w5"}], 4)).split()) <= 4
    for words in (64, 200):
        with pytest.raises(command.NoRoomError, match=r"the package's context of 64 leaves no room for an answer"):
            answers.to([{"role": "user", "content": "w5 " * words}], 4)


def test_what_was_said_first_has_no_place_where_the_answer_would_be_cut_short_and_one_question_has(
    package: Path,
) -> None:
    answers, question = command.Answers(package, 1), {"role": "user", "content": "w5 " * 30}
    asked = len(answers._text.chat([question]))
    longest = 64 - asked
    assert list(answers.to([question], longest + 10))
    earlier = [{"role": "user", "content": "w6 w7"}, {"role": "assistant", "content": "w8"}]
    with pytest.raises(command.NoRoomError, match=f"leaves no room for an answer of {longest}; say less"):
        answers.to([*earlier, question], longest)
    assert list(answers.to([*earlier, question], 2))


class Slow:
    """A model whose clock runs ten times slower while it warms up."""

    def __init__(self) -> None:
        self.now, self.calls = 0.0, 0

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        raise NotImplementedError

    def generate(self, tokens: Sequence[int], max_new_tokens: int, *, to_the_end: bool = False) -> Iterator[int]:
        assert to_the_end
        self.calls += 1
        slow = 10 if self.calls <= 2 else 1
        self.now += 0.01 * slow * len(tokens)
        for token in range(max_new_tokens):
            if token:
                self.now += 0.02 * slow
            yield token


def test_measuring_counts_the_first_token_apart_and_leaves_the_warm_up_out() -> None:
    model = Slow()
    latency = measure(model, [[1] * 3, [1] * 9], 5, runs=3, threads=1, clock=lambda: model.now)
    assert latency.ttft_ms_samples[3] == pytest.approx((30, 30, 30))
    assert latency.ttft_ms_samples[9] == pytest.approx((90, 90, 90))
    assert latency.tpot_ms_samples == pytest.approx((20, 20, 20))
    assert (latency.ttft_ms, latency.tpot_ms) == pytest.approx((30, 20))


def test_prompts_are_as_long_as_the_context_allows() -> None:
    assert prompt_lengths(2048, 32) == (128, 512)
    assert prompt_lengths(256, 32) == (128,)
    assert prompt_lengths(64, 4) == (30,)


def test_a_small_child_of_a_large_parent_is_measured_as_small() -> None:
    ballast = bytearray(400_000_000)
    ballast[::4096] = b"x" * len(ballast[::4096])
    code = "from edge_targets._device.bench import peak_memory_mb; print(peak_memory_mb())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 200 < peak_memory_mb()


@pytest.mark.parametrize(("system", "megabytes"), [("darwin", 50.0), ("freebsd14", 51_200.0)])
def test_peak_memory_is_read_in_the_unit_that_the_system_counts_in(
    system: str, megabytes: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "is_file", lambda self: False)  # no /proc
    monkeypatch.setattr("sys.platform", system)
    monkeypatch.setattr("resource.getrusage", lambda who: SimpleNamespace(ru_maxrss=50_000_000))
    assert peak_memory_mb() == megabytes


class Silent(Slow):
    def generate(self, tokens: Sequence[int], max_new_tokens: int, *, to_the_end: bool = False) -> Iterator[int]:
        return iter(())


def test_a_model_that_says_nothing_cannot_be_timed() -> None:
    with pytest.raises(ValueError, match="the model wrote 0 tokens"):
        measure(Silent(), [[1]], 5, runs=1, threads=1)
