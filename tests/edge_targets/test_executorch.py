"""A tiny random model as an ExecuTorch program, run by ExecuTorch's own runtime, against torch on the same checkpoint."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures.tiny import VOCABULARY, make_model, write_base

import edge_targets
from components.shape import Shape
from edge_targets import _executorch, _package
from edge_targets._executorch_runner import ExecutorchRunner, load
from edge_targets._target import PackageError, PackageRequest

CONTEXT = 96
TOKENS = torch.randint(2, VOCABULARY, (40,), generator=torch.Generator().manual_seed(4)).tolist()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("checkpoint"), make_model(layers=2))


@pytest.fixture(scope="module")
def package(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("package")
    request = PackageRequest(checkpoint, Shape(2, 100), "8da8w", CONTEXT)
    return edge_targets.load("android_arm64").package(request, out).folder


@pytest.fixture(scope="module")
def runner(package: Path) -> ExecutorchRunner:
    return load(package, 1)


def float_logits(tokens: list[int]) -> np.ndarray:
    with torch.no_grad():
        return make_model(layers=2)(torch.tensor([tokens])).logits[0].numpy()


def test_the_program_says_nearly_what_the_float_model_says(runner: ExecutorchRunner) -> None:
    given, wanted = runner.logits(TOKENS), float_logits(TOKENS)
    assert given.shape == wanted.shape
    assert np.abs(given - wanted).mean() < 0.1 * wanted.std()
    assert (given.argmax(-1) == wanted.argmax(-1)).mean() > 0.8


def test_reading_in_pieces_gives_what_reading_at_once_gives(runner: ExecutorchRunner) -> None:
    whole = runner.logits(TOKENS)
    runner._most_positions, kept = 7, runner._most_positions
    pieces = runner.logits(TOKENS)
    runner._most_positions = kept
    np.testing.assert_allclose(pieces, whole, rtol=1e-3, atol=1e-3)


def test_a_text_is_not_touched_by_the_one_read_before(runner: ExecutorchRunner) -> None:
    first = runner.logits(TOKENS[:10])
    runner.logits(list(reversed(TOKENS)))
    assert np.array_equal(runner.logits(TOKENS[:10]), first)


def test_generation_is_the_likeliest_token_of_repeated_full_reads(runner: ExecutorchRunner) -> None:
    tokens = TOKENS[:10]
    slow: list[int] = []
    for _ in range(12):
        token = int(runner.logits(tokens + slow)[-1].argmax())
        if token == 1:
            break
        slow.append(token)
    assert list(runner.generate(tokens, 12)) == slow


def test_the_end_token_ends_and_is_not_yielded(runner: ExecutorchRunner) -> None:
    first = next(iter(runner.generate(TOKENS[:10], 1)))
    kept, runner._ends = runner._ends, frozenset({first})
    assert list(runner.generate(TOKENS[:10], 5)) == []
    runner._ends = kept


def test_more_than_the_context_is_refused_with_what_fits(runner: ExecutorchRunner) -> None:
    with pytest.raises(ValueError, match="at most 56 new ones fit"):
        runner.generate(TOKENS, 57)
    with pytest.raises(ValueError, match="got no tokens"):
        runner.logits([])


def test_the_text_runners_names_are_answered(package: Path) -> None:
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(package / "model.pte")
    answers = {
        name: program.load_method(name).execute(())[0]
        for name in ("get_max_seq_len", "get_vocab_size", "use_kv_cache", "enable_dynamic_shape", "get_eos_ids")
    }
    assert answers["get_max_seq_len"] == CONTEXT
    assert answers["get_vocab_size"] == VOCABULARY
    assert answers["use_kv_cache"] is True
    assert answers["enable_dynamic_shape"] is True
    assert "get_max_prefill_len" in program.method_names


def test_the_package_is_complete(package: Path) -> None:
    facts = _package.read(package)
    assert facts["target"] == "android_arm64"
    assert facts["quantization"] == "8da8w"
    assert facts["eos_token_ids"] == [1]
    assert facts["memory_mb"]["weights"] > 0
    for name in ("tokenizer.json", "chat_template.jinja", "LICENSE", "README.md", "generation_config.json"):
        assert (package / name).is_file()


def changed(checkpoint: Path, folder: Path, **settings: object) -> Path:
    config = json.loads((checkpoint / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **settings}))
    return folder


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"intermediate_size": 100}, "intermediate_size is 100, .* the nearest width is 96"),
        ({"architectures": ["GPT2LMHeadModel"]}, "the checkpoint is a GPT2LMHeadModel"),
        ({"max_position_embeddings": 64}, "a context of 96 is longer than the model's 64"),
        ({"sliding_window": 16}, "sliding windows are not expressed"),
    ],
)
def test_what_cannot_be_expressed_is_refused_before_anything_is_built(
    checkpoint: Path, tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    request = PackageRequest(changed(checkpoint, tmp_path, **settings), Shape(2, 100), "8da4w", CONTEXT)
    (tmp_path / "out").mkdir()
    with pytest.raises(PackageError, match=message):
        _executorch.package(request, tmp_path / "out", target="android_arm64")
    assert not list((tmp_path / "out").iterdir())


def test_a_layer_left_in_float_is_named() -> None:
    from edge_targets._executorch_program import Decoder, quantize

    decoder = Decoder(make_model(layers=1), CONTEXT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torchao.quantization.quantize_", lambda *arguments: None)
        with pytest.raises(PackageError, match="left 9 layers in float, the first is"):
            quantize(decoder, "8da8w", 32)


def test_listing_the_target_imports_neither_torch_nor_executorch() -> None:
    code = "import sys, edge_targets; edge_targets.load('android_arm64'); print({'torch', 'executorch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
