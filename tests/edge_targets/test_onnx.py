"""Tiny random models: the ONNX package against torch on the same checkpoint."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from fixtures.passages import answers_alike_from_one_reading, reads_on_after_going_back
from fixtures.questions import make_questions
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

import edge_targets
from components.shape import Shape
from edge_targets import _onnx
from edge_targets._device.onnxruntime_runner import OnnxRunner, load
from edge_targets._onnx_blocks import quantize
from edge_targets._rounding import calibrated
from edge_targets._target import Grid, PackageError, PackageRequest

VOCABULARY = 168
CONTEXT = 640
END_TOKEN = 1
TEXT_WT = np.random.default_rng(1).integers(2, VOCABULARY, (4, 32)).astype(np.int32)
PROMPT = [5, 17, 99, 3, 42, 42, 7]
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 96,  # no multiple of int8's blocks of 64: the last block is padded
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 1024,
    "eos_token_id": END_TOKEN,
    "bos_token_id": None,
    "initializer_range": 0.1,
}
LLAMA_3 = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def llama(tied: bool = True, **changes: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = LlamaForCausalLM(LlamaConfig(tie_word_embeddings=tied, **{**SIZES, **changes}))
    return model


def save(model: PreTrainedModel, folder: Path) -> Path:
    """A whole checkpoint folder around `model`, as extraction leaves it."""
    model.save_pretrained(folder)
    words = {f"word{i}": i for i in range(VOCABULARY)}
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="word0"))
    )
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    tokenizer.save_pretrained(folder)
    (folder / "LICENSE").write_text("Apache-2.0\n")
    (folder / "README.md").write_text("# A tiny model\n")
    return folder


def pack(checkpoint: Path, out: Path, quantization: str = "fp32", context_length: int = CONTEXT) -> Path:
    out.mkdir()
    request = PackageRequest(checkpoint, Shape(3, 100), quantization, context_length, TEXT_WT)
    return edge_targets.load("x86_avx2").package(request, out).folder


def torch_logits(model: PreTrainedModel, tokens: list[int]) -> NDArray[np.float32]:
    with torch.no_grad():
        logits: NDArray[np.float32] = model(torch.tensor([tokens])).logits[0].float().numpy()
    return logits


def relative_error(given: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(given - wanted) / np.linalg.norm(wanted))


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return llama(tied=False)  # a tied random model says one token again and again


@pytest.fixture(scope="module")
def checkpoint(model: PreTrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(model, tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def folder(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack(checkpoint, tmp_path_factory.mktemp("packages") / "fp32")


@pytest.fixture(scope="module")
def runner(folder: Path) -> OnnxRunner:
    return load(folder, 1)


def test_float_logits_are_torch_s(runner: OnnxRunner, model: PreTrainedModel) -> None:
    np.testing.assert_allclose(runner.logits(PROMPT), torch_logits(model, PROMPT), atol=1e-3)


def test_a_prompt_longer_than_one_chunk_has_torch_s_logits(runner: OnnxRunner, model: PreTrainedModel) -> None:
    tokens = np.random.default_rng(0).integers(2, VOCABULARY, 600).tolist()
    logits = runner.logits(tokens)
    assert logits.shape == (600, VOCABULARY)
    np.testing.assert_allclose(logits, torch_logits(model, tokens), atol=1e-3)


@pytest.mark.parametrize(
    "other",
    [
        lambda: llama(tied=True),
        lambda: llama(attention_bias=True, mlp_bias=True),
        lambda: llama(rope_parameters={"rope_type": "default", "rope_theta": 300.0}),
        lambda: MistralForCausalLM(MistralConfig(sliding_window=None, **SIZES)),
        lambda: MistralForCausalLM(MistralConfig(sliding_window=CONTEXT, **SIZES)),
        lambda: Qwen2ForCausalLM(Qwen2Config(use_sliding_window=False, **SIZES)),
        lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES)),
        lambda: llama(rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0}),
        lambda: llama(rope_parameters=LLAMA_3),
    ],
    ids=[
        "tied",
        "biases",
        "rope_theta",
        "mistral",
        "a whole window",
        "qwen2",
        "qwen3",
        "linear rope",
        "llama 3.1's rope",
    ],
)
def test_the_other_decoders_that_are_taken_have_torch_s_logits(
    other: Callable[[], PreTrainedModel], tmp_path: Path
) -> None:
    model = other()
    for name, parameter in model.named_parameters():
        if name.endswith(("bias", "q_norm.weight", "k_norm.weight")):
            torch.nn.init.normal_(parameter)
    runner, tokens = load(pack(save(model, tmp_path / "checkpoint"), tmp_path / "package"), 1), PROMPT * 8
    np.testing.assert_allclose(runner.logits(tokens), torch_logits(model, tokens), atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_checkpoint_in_half_precision_is_read_as_float(dtype: torch.dtype, tmp_path: Path) -> None:
    model = llama().to(dtype)  # type: ignore[arg-type]
    runner = load(pack(save(model, tmp_path / "checkpoint"), tmp_path / "package"), 1)
    np.testing.assert_allclose(runner.logits(PROMPT), torch_logits(model.float(), PROMPT), atol=1e-3)


def restored(model: PreTrainedModel, checkpoint: Path, quantization: str, block: int) -> PreTrainedModel:
    """The model with every matrix as its codes and scales give it back; embedding and head are of 8 bits."""
    copy = deepcopy(model)
    request = PackageRequest(checkpoint, Shape(3, 100), quantization, CONTEXT, TEXT_WT)
    rounded = calibrated(request, Grid(4, block)) if quantization == "int4" else {}
    for name, parameter in copy.named_parameters():
        if parameter.dim() == 2:
            known = rounded.get(name.removesuffix(".weight"))
            if known is None:
                packed_NBC, scales_NB = quantize(parameter.detach().numpy(), 8, block)
                codes_NK = packed_NBC.reshape(len(packed_NBC), -1).astype(np.float32) - 128
            else:
                codes_NK, scales_NB = known.codes_NK.astype(np.float32), known.scales_NB
            width = parameter.shape[1]
            weight_NK = codes_NK[:, :width] * np.repeat(scales_NB, block, axis=1)[:, :width]
            parameter.data = torch.from_numpy(weight_NK)
    return copy


@pytest.mark.parametrize(("quantization", "block"), [("int8", 64), ("int4", 32)])
@pytest.mark.parametrize("tied", [True, False])
def test_quantized_logits_are_torch_s_with_the_restored_weights(
    quantization: str, block: int, tied: bool, tmp_path: Path
) -> None:
    model = llama(tied)
    checkpoint = save(model, tmp_path / "checkpoint")
    runner = load(pack(checkpoint, tmp_path / "package", quantization), 1)
    back = restored(model, checkpoint, quantization, block)
    only_activations_differ = relative_error(runner.logits(PROMPT), torch_logits(back, PROMPT))
    assert only_activations_differ < 0.03
    generated = list(runner.generate(PROMPT, 6))
    again = runner.logits(PROMPT + generated)[len(PROMPT) - 1 : -1]
    assert generated == again.argmax(axis=1).tolist()


def test_every_quantization_of_a_target_packages(checkpoint: Path, tmp_path: Path) -> None:
    for quantization in edge_targets.load("x86_avx512").quantizations:
        folder = pack(checkpoint, tmp_path / quantization.name, quantization.name)
        assert json.loads((folder / "package.json").read_text())["quantization"] == quantization.name


def test_a_weight_takes_the_bits_its_quantization_says(checkpoint: Path, tmp_path: Path) -> None:
    for quantization in _onnx.QUANTIZATIONS[:2]:
        folder = pack(checkpoint, tmp_path / quantization.name, quantization.name)
        graph = onnx.load(folder / "model.onnx").graph
        stored = {initializer.name: len(initializer.raw_data) for initializer in graph.initializer}
        output = "model.layers.0.self_attn.o_proj"
        weights = SIZES["hidden_size"] * 64
        assert (stored[output] + stored[f"{output}.scales"]) * 8 == weights * quantization.linear_bits


def test_a_tied_embedding_and_head_share_one_initializer(tmp_path: Path) -> None:
    graph = onnx.load(
        pack(save(llama(tied=True), tmp_path / "tied"), tmp_path / "package", "int8") / "model.onnx"
    ).graph
    readers = [node.op_type for node in graph.node if "model.embed_tokens" in node.input]
    assert readers == ["GatherBlockQuantized", "MatMulNBits"]
    assert [list(i.dims) for i in graph.initializer if i.dims[:1] == [VOCABULARY]] == [
        [VOCABULARY, 2, 64],
        [VOCABULARY, 2],
    ]


def test_no_matrix_of_a_quantized_package_is_left_in_float(checkpoint: Path, tmp_path: Path) -> None:
    graph = onnx.load(pack(checkpoint, tmp_path / "package", "int8") / "model.onnx").graph
    matrices = {i.name for i in graph.initializer if len(i.dims) > 1 and i.data_type == onnx.TensorProto.FLOAT}
    assert {name for name in matrices if not name.endswith(".scales")} == {"cos_cache", "sin_cache"}


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_the_same_checkpoint_packaged_twice_gives_the_same_bytes(checkpoint: Path, tmp_path: Path) -> None:
    for quantization in ("int8", "int4"):
        folders = [pack(checkpoint, tmp_path / f"{quantization}-{time}", quantization) for time in ("one", "two")]
        first, second = (bytes_of(folder) for folder in folders)
        assert first == second


def test_weights_lie_beside_the_graph_and_the_tables_by_themselves(checkpoint: Path, tmp_path: Path) -> None:
    folder = pack(checkpoint, tmp_path / "package")
    assert json.loads((folder / "package.json").read_text())["model_files"] == [
        "model.onnx",
        "layers.data",
        "tables.data",
    ]
    assert (folder / "layers.data").stat().st_size > (folder / "model.onnx").stat().st_size
    changed = LlamaForCausalLM.from_pretrained(checkpoint)
    with torch.no_grad():
        for layer in changed.model.layers:
            layer.mlp.up_proj.weight.mul_(1.5)
    other = tmp_path / "other"
    shutil.copytree(checkpoint, other)
    changed.save_pretrained(other)
    trained = pack(other, tmp_path / "trained")
    assert (trained / "tables.data").read_bytes() == (folder / "tables.data").read_bytes()
    assert (trained / "layers.data").read_bytes() != (folder / "layers.data").read_bytes()


@pytest.mark.parametrize(("bits", "block"), [(8, 64), (8, 32), (4, 32)])
def test_quantizing_is_what_rounding_block_by_block_gives(bits: int, block: int) -> None:
    weight_NK = np.random.default_rng(0).normal(size=(5, 2 * block + 8)).astype(np.float32)
    weight_NK[2, :block] = 0
    packed_NBC, scales_NB = quantize(weight_NK, bits, block)
    middle = 2 ** (bits - 1)
    for n, row in enumerate(weight_NK):
        for b in range(3):
            wanted = row[b * block : (b + 1) * block]
            codes = [int(byte) for byte in packed_NBC[n, b]]
            if bits == 4:
                codes = [half for byte in codes for half in (byte % 16, byte // 16)]
            restored = [(code - middle) * scales_NB[n, b] for code in codes]
            step = max(abs(wanted)) / middle
            assert all(code == middle for code in codes[len(wanted) :])
            for given, weight in zip(restored, wanted, strict=False):
                assert abs(given - weight) <= 1.01 * step


def test_greedy_generation_is_the_argmax_of_torch_s_logits_again_and_again(
    runner: OnnxRunner, model: PreTrainedModel
) -> None:
    tokens = list(PROMPT)
    for _ in range(12):
        tokens.append(int(torch_logits(model, tokens)[-1].argmax()))
    assert list(runner.generate(PROMPT, 12)) == tokens[len(PROMPT) :]


def test_two_generations_in_turns_do_not_disturb_each_other(runner: OnnxRunner) -> None:
    alone = [list(runner.generate(prompt, 10)) for prompt in (PROMPT, [9, 8])]
    in_turns = zip(runner.generate(PROMPT, 10), runner.generate([9, 8], 10), strict=True)
    assert [list(tokens) for tokens in zip(*in_turns, strict=True)] == alone


def test_a_passage_that_goes_back_reads_on_as_if_it_had_never_left(runner: OnnxRunner) -> None:
    reads_on_after_going_back(runner, PROMPT, tolerance=1e-4)


def test_choices_that_go_on_from_one_reading_are_as_likely_as_each_read_anew(runner: OnnxRunner) -> None:
    answers_alike_from_one_reading(runner, make_questions(vocabulary=VOCABULARY), tolerance=1e-4)


def test_generation_ends_before_the_end_of_sequence_token(folder: Path, runner: OnnxRunner, tmp_path: Path) -> None:
    generated = list(runner.generate(PROMPT, 8))
    at = next(i for i, token in enumerate(generated) if i > 0 and token not in generated[:i])
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    facts = json.loads((copy / "package.json").read_text())
    (copy / "package.json").write_text(json.dumps({**facts, "eos_token_ids": [END_TOKEN, generated[at]]}))
    assert list(load(copy, 1).generate(PROMPT, 8)) == generated[:at]


def test_a_full_context_is_generated_and_one_token_more_is_refused_at_the_call(
    checkpoint: Path, tmp_path: Path
) -> None:
    runner = load(pack(checkpoint, tmp_path / "package", context_length=10), 1)
    assert len(list(runner.generate(PROMPT, 3))) == 3
    with pytest.raises(ValueError, match=r"7 tokens and 4 new ones .* context of 10; at most 3 new ones fit"):
        runner.generate(PROMPT, 4)


def test_tokens_that_no_model_could_take_are_refused(runner: OnnxRunner) -> None:
    with pytest.raises(ValueError, match="no tokens"):
        runner.logits([])
    with pytest.raises(ValueError, match=f"token {VOCABULARY} is outside the vocabulary, 0 to {VOCABULARY - 1}"):
        runner.logits([3, VOCABULARY])
    with pytest.raises(ValueError, match="-1 new tokens"):
        runner.generate(PROMPT, -1)


def test_a_model_file_that_does_not_load_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(PackageError, match=r"cannot load .*model\.onnx"):
        load(copy, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["GemmaForCausalLM"]}, "architecture is GemmaForCausalLM; supported: LlamaForCausalLM"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_type is yarn"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}, "rope_parameters": None}, "rope_type is dynamic"),
        ({"architectures": ["MistralForCausalLM"], "sliding_window": 64}, "sliding_window is 64 .* at most 64"),
        ({"hidden_act": "gelu"}, "hidden_act is gelu; supported: silu"),
        ({"max_position_embeddings": 512}, "640 tokens was asked for; the model takes 2 to 512"),
        ({"num_hidden_layers": 4}, r"no weight model\.layers\.3\."),
    ],
)
def test_a_checkpoint_the_graph_does_not_express_is_refused(
    change: dict[str, object], message: str, checkpoint: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(checkpoint, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(PackageError, match=message):
        pack(copy, tmp_path / "package")


def test_a_quantization_nobody_offers_is_refused_with_those_that_are(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="no quantization 'int3'; it offers int8, int4, fp32"):
        pack(checkpoint, tmp_path / "package", "int3")


def test_a_device_runs_a_package_without_torch_transformers_or_onnx(folder: Path) -> None:
    code = (
        "import sys; from edge_targets._device import facts; from pathlib import Path\n"
        "runner = facts.load(Path(sys.argv[1]), 1)\n"
        "assert len(list(runner.generate([5, 6], 2))) == 2\n"
        "print(sorted({'torch', 'transformers', 'onnx', 'safetensors'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
