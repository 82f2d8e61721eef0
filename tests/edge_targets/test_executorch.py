"""A tiny random model as an ExecuTorch program, run by ExecuTorch's own runtime, against torch on the same checkpoint."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixtures.passages import answers_alike_from_one_reading, reads_on_after_going_back
from fixtures.questions import make_questions
from fixtures.tiny import FAMILIES, VOCABULARY, make_model, write_base
from numpy.typing import NDArray

import edge_targets
from components.shape import Shape
from edge_targets import _executorch
from edge_targets._device import facts as device_facts
from edge_targets._device.executorch_runner import ExecutorchRunner, load
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


def float_logits(tokens: list[int]) -> NDArray[np.float32]:
    with torch.no_grad():
        logits: NDArray[np.float32] = make_model(layers=2)(torch.tensor([tokens])).logits[0].numpy()
    return logits


def decoder_logits(decoder: torch.nn.Module, tokens: list[int], *pieces: int) -> torch.Tensor:
    """The decoder before it is exported, reading `pieces` tokens at a time."""
    logits, start = [], 0
    with torch.no_grad():
        for length in pieces or (len(tokens),):
            logits.append(decoder(torch.tensor([tokens[start : start + length]]), torch.tensor([start]))[0])
            start += length
    return torch.cat(logits)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_decoder_that_is_exported_has_the_logits_of_the_hugging_face_model(family: str, tied: bool) -> None:
    from edge_targets._executorch_program import Decoder

    model = make_model(family, layers=2, tied=tied)
    with torch.no_grad():
        wanted = model(torch.tensor([TOKENS])).logits[0]
    decoder = Decoder(model, CONTEXT)
    torch.testing.assert_close(decoder_logits(decoder, TOKENS), wanted, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(decoder_logits(decoder, TOKENS, 17, 1, 22), wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "linear", "factor": 2.0},
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    ],
    ids=["linear", "llama3"],
)
def test_scaled_rotary_positions_that_do_not_depend_on_the_length_are_the_models(rope: dict[str, Any]) -> None:
    from transformers import LlamaForCausalLM

    from edge_targets._executorch_program import Decoder

    config = make_model(layers=2).config
    config.rope_parameters = {"rope_theta": 10_000.0, **rope}
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        wanted = model(torch.tensor([TOKENS])).logits[0]
    torch.testing.assert_close(decoder_logits(Decoder(model, CONTEXT), TOKENS), wanted, rtol=1e-3, atol=1e-4)


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


def test_a_program_of_four_bits_has_the_logits_of_torch_with_the_same_rounded_weights(tmp_path: Path) -> None:
    from edge_targets._executorch_xnnpack import Decoder, quantize

    checkpoint = write_base(tmp_path, make_model(layers=1))
    (tmp_path / "package").mkdir()
    text_WT = np.random.default_rng(1).integers(2, VOCABULARY, (4, 32)).astype(np.int32)
    request = PackageRequest(checkpoint, Shape(1, 100), "8da4w", CONTEXT, text_WT)
    given = load(_executorch.package(request, tmp_path / "package", target="android_arm64").folder, 1).logits(TOKENS)
    decoder = Decoder(make_model(layers=1), CONTEXT)
    quantize(decoder, "8da4w", 32, _executorch.calibrated_codes(request, "xnnpack"))
    wanted = decoder_logits(decoder, TOKENS).numpy()
    assert np.abs(given - wanted).mean() < 0.02 * wanted.std()


def test_two_generations_in_turns_do_not_disturb_each_other(runner: ExecutorchRunner) -> None:
    alone = [list(runner.generate(prompt, 8)) for prompt in (TOKENS[:10], TOKENS[20:25])]
    in_turns = zip(runner.generate(TOKENS[:10], 8), runner.generate(TOKENS[20:25], 8), strict=True)
    assert [list(tokens) for tokens in zip(*in_turns, strict=True)] == alone


def test_a_passage_that_goes_back_reads_on_as_if_it_had_never_left(runner: ExecutorchRunner) -> None:
    reads_on_after_going_back(runner, TOKENS[:7], tolerance=1e-4)


def test_choices_that_go_on_from_one_reading_are_as_likely_as_each_read_anew(runner: ExecutorchRunner) -> None:
    answers_alike_from_one_reading(runner, make_questions(), tolerance=1e-4)


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
    kept, runner._end_tokens = runner._end_tokens, frozenset({first})
    assert list(runner.generate(TOKENS[:10], 5)) == []
    runner._end_tokens = kept


def test_more_than_the_context_is_refused_with_what_fits(runner: ExecutorchRunner) -> None:
    with pytest.raises(ValueError, match="at most 56 new ones fit"):
        runner.generate(TOKENS, 57)


def test_a_context_is_filled_to_its_last_position(runner: ExecutorchRunner) -> None:
    tokens = (TOKENS * 3)[:CONTEXT]
    assert runner.logits(tokens).shape == (CONTEXT, VOCABULARY)
    np.testing.assert_allclose(runner.logits(tokens)[:40], runner.logits(TOKENS), rtol=1e-3, atol=1e-3)


def test_tokens_that_no_model_could_take_are_refused(runner: ExecutorchRunner) -> None:
    with pytest.raises(ValueError, match="got no tokens"):
        runner.logits([])
    with pytest.raises(ValueError, match=f"token {VOCABULARY} is outside the vocabulary, 0 to {VOCABULARY - 1}"):
        runner.logits([3, VOCABULARY])
    with pytest.raises(ValueError, match="got -1 new tokens"):
        runner.generate(TOKENS, -1)


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.9])
def test_a_program_that_is_no_program_or_cut_short_is_refused(kept: float, package: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(package, copy)
    whole = (package / "model.pte").read_bytes()
    (copy / "model.pte").write_bytes(whole[: int(len(whole) * kept)] or b"not a program")
    with pytest.raises(PackageError, match=r"ExecuTorch cannot load .*copy"):
        load(copy, 1)


@pytest.mark.parametrize("module", ["torch", "executorch"])
def test_a_module_that_is_missing_is_one_line_with_what_brings_it(module: str, package: Path) -> None:
    code = f"import sys, runpy; sys.modules.update({module}=None); sys.path.insert(0, sys.argv[1])"
    code += "; script = sys.argv.pop(1) + '/run.py'; runpy.run_path(script, run_name='__main__')"
    asked = [sys.executable, "-P", "-c", code, str(package), "--prompt", "w5"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    version = device_facts.read(package)["runtime"]["version"]
    wanted = {"torch": "torch", "executorch": f"executorch=={version}"}[module]
    assert (done.returncode, done.stderr) == (2, f"error: the module {module} is missing: pip install {wanted}\n")


def test_the_text_runners_names_are_answered(package: Path) -> None:
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(package / "model.pte")
    answers = {name: program.load_method(name).execute(())[0] for name in program.method_names - {"forward"}}
    assert answers == {
        "get_max_seq_len": CONTEXT - 1,  # what a call takes: the text runner reads longer prompts in pieces of it
        "get_max_context_len": CONTEXT,
        "get_vocab_size": VOCABULARY,
        "get_n_layers": 2,
        "get_eos_ids": 1,
        "use_kv_cache": True,
        "use_sdpa_with_kv_cache": True,
        "enable_dynamic_shape": True,
    }


def test_the_package_is_complete(package: Path) -> None:
    facts = device_facts.read(package)
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
        ({"architectures": ["GPT2LMHeadModel"]}, "architecture is GPT2LMHeadModel"),
        ({"max_position_embeddings": 64}, "a context of 96 tokens was asked for; the model takes 2 to 64"),
        ({"sliding_window": 16}, "sliding windows are not expressed; ask for a context of at most 16"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type is yarn; supported: default, linear, llama3"),
        ({"num_attention_heads": 3}, "head_dim is 48, which groups of 32 weights do not divide"),
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


@pytest.mark.parametrize("length", [0, 3])
def test_a_context_too_short_to_be_traced_is_refused_with_the_shortest(
    length: int, checkpoint: Path, tmp_path: Path
) -> None:
    request = PackageRequest(checkpoint, Shape(2, 100), "8da8w", length)
    with pytest.raises(PackageError, match=f"a context of {length} tokens was asked for; .* takes 4 and more"):
        _executorch.package(request, tmp_path, target="android_arm64")


def test_a_layer_left_in_float_is_named() -> None:
    from edge_targets import _executorch_weights
    from edge_targets._executorch_xnnpack import Decoder, quantize

    decoder = Decoder(make_model(layers=1), CONTEXT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_executorch_weights, "store", lambda *arguments, **options: None)
        with pytest.raises(PackageError, match="left 8 layers in float, the first is"):
            quantize(decoder, "8da8w", 32)


def test_a_product_left_outside_of_xnnpack_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from executorch.backends.xnnpack.partition.config.generic_node_configs import AddConfig
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

    from edge_targets import _executorch_program as program
    from edge_targets import _executorch_xnnpack as xnnpack

    monkeypatch.setattr(xnnpack, "_Partitioner", lambda: XnnpackPartitioner(configs=[AddConfig]))
    exported, _ = program.export(program.Decoder(make_model(layers=1), CONTEXT))
    with pytest.raises(PackageError, match=r"8 matrix products were not lowered to XNNPACK, the first is .*aten"):
        xnnpack.lower(exported, {})


def test_a_quantization_nobody_offers_is_refused_with_those_that_are(checkpoint: Path, tmp_path: Path) -> None:
    request = PackageRequest(checkpoint, Shape(2, 100), "int4", CONTEXT)
    with pytest.raises(PackageError, match="'int4'; offered are 8da8w, 8da4w"):
        _executorch.package(request, tmp_path, target="android_arm64")


def test_listing_the_target_imports_neither_torch_nor_executorch() -> None:
    heavy = "{'torch', 'executorch', 'torchao', 'transformers'}"
    code = f"import sys, edge_targets; edge_targets.load('android_arm64'); print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
