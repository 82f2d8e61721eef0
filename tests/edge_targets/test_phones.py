"""Phone backends on tiny models: what each multiplies, what can be verified without a phone, and ExecuTorch's own text runner."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixtures.tiny import FAMILIES, VOCABULARY, make_model, write_base
from numpy.typing import NDArray

import edge_targets
from components.shape import Shape
from edge_targets import _executorch, _executorch_inspect, _package
from edge_targets._device.executorch_runner import load
from edge_targets._device.text import Text
from edge_targets._target import PackageError, PackageRequest

CONTEXT = 96
TOKENS = torch.randint(2, VOCABULARY, (40,), generator=torch.Generator().manual_seed(4)).tolist()
TEXT_WT = np.random.default_rng(1).integers(2, VOCABULARY, (4, 32)).astype(np.int32)
CANNOT_RUN = {"android_vulkan": "8da4w", "iphone_coreml": "4w"}
LINEARS = 7  # of a layer
NORMS = 3  # of a model of one layer


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("checkpoint"), make_model(layers=1))


@pytest.fixture(scope="module")
def packages(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One for each backend that nothing here runs."""
    built = {}
    for name, quantization in CANNOT_RUN.items():
        out = tmp_path_factory.mktemp(name)
        built[name] = edge_targets.load(name).package(request(checkpoint, quantization), out).folder
    return built


def request(checkpoint: Path, quantization: str) -> PackageRequest:
    return PackageRequest(checkpoint, Shape(1, 100), quantization, CONTEXT, TEXT_WT)


def build(checkpoint: Path, out: Path, name: str, quantization: str) -> Path:
    out.mkdir()
    return edge_targets.load(name).package(request(checkpoint, quantization), out).folder


def eager(decoder: torch.nn.Module, *pieces: int) -> NDArray[np.float32]:
    """The decoder before it is exported, reading `pieces` tokens at a time."""
    logits, start = [], 0
    with torch.no_grad():
        for length in pieces or (len(TOKENS),):
            logits.append(decoder(torch.tensor([TOKENS[start : start + length]]), torch.tensor([start]))[0])
            start += length
    answer: NDArray[np.float32] = torch.cat(logits).numpy()
    return answer


# Codes from a calibration


def chosen_codes(model: Any) -> dict[str, Any]:
    """Other codes and scales than rounding to nearest gives, with scales that bfloat16 does not hold."""
    from edge_targets._executorch_weights import Codes

    generator = torch.Generator().manual_seed(7)
    given = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            rows, columns = module.weight.shape
            codes = torch.randint(-8, 8, (rows, columns), generator=generator, dtype=torch.int8)
            scales = torch.rand(rows, columns // 32, generator=generator) * 0.03 + 0.01
            given[name] = Codes(codes, scales)
    return given


def test_given_codes_are_what_xnnpack_multiplies_with_scales_in_bfloat16(tmp_path: Path, checkpoint: Path) -> None:
    from edge_targets import _executorch_weights as weights
    from edge_targets import _executorch_xnnpack as xnnpack
    from edge_targets._executorch_program import export
    from edge_targets._executorch_weights import Stored

    given = chosen_codes(make_model(layers=1))
    package = build(checkpoint, tmp_path / "package", "android_arm64", "8da4w")  # its tokenizer and facts
    decoder = xnnpack.Decoder(make_model(layers=1), CONTEXT)
    xnnpack.quantize(decoder, "8da4w", 32, given)
    wanted = eager(decoder)
    exported, most = export(decoder)
    program = xnnpack.lower(exported, {"get_max_seq_len": most})
    (package / "model.pte").write_bytes(program.buffer)
    answered = load(package, 1).logits(TOKENS)

    off = np.abs(answered - wanted).mean() / wanted.std()
    # Eight bits of activations round otherwise now and then; a wrong scale or code would be seen everywhere.
    assert off < 0.005
    exact = xnnpack.Decoder(make_model(layers=1), CONTEXT)
    weights.store(exact, lambda name: Stored(8) if name == "head" else Stored(4, 32), given, eight_bit_activations=True)
    weights.store_embedding(exact, Stored(8, 32))
    unrounded = np.abs(answered - eager(exact)).mean() / wanted.std()
    assert unrounded > 1.5 * off


def test_given_codes_are_the_weights_of_the_layer_they_are_named_after() -> None:
    from torchao.quantization.quantize_.workflows.intx.intx_unpacked_to_int8_tensor import IntxUnpackedToInt8Tensor

    from edge_targets import _executorch_weights as weights
    from edge_targets._executorch_program import Decoder
    from edge_targets._executorch_weights import Stored

    given = chosen_codes(make_model(layers=1))
    decoder = Decoder(make_model(layers=1), CONTEXT)
    weights.store(decoder, lambda name: Stored(8 if name == "head" else 4, 32), given, eight_bit_activations=True)
    stored = {name: module.weight for name, module in decoder.named_modules() if isinstance(module, torch.nn.Linear)}
    assert stored.keys() == {"head", *(f"layers.0.{name}" for name in "qkvo")} | {
        f"layers.0.mlp.{name}_proj" for name in ("gate", "up", "down")
    }
    for name, weight in stored.items():
        assert isinstance(weight, IntxUnpackedToInt8Tensor)
        if name != "head":
            torch.testing.assert_close(weight.dequantize(), given[weights.checkpoint_name(name)].weight_NK())


def test_rounding_to_nearest_is_never_further_than_half_a_step_but_at_the_end_of_the_range() -> None:
    from edge_targets._executorch_weights import Stored, nearest

    weight_NK = torch.randn(16, 64, generator=torch.Generator().manual_seed(1))
    for stored in (Stored(4, 32), Stored(4, 32, torch.bfloat16), Stored(8), Stored(8, scale_dtype=torch.float16)):
        codes = nearest(weight_NK, stored)
        steps = (weight_NK - codes.weight_NK()).abs() / codes.scales_NB.repeat_interleave(codes.block, 1)
        inside = codes.codes_NK < (1 << stored.bits - 1) - 1
        assert steps[inside].max() <= 0.5 + 1e-3
        assert steps.max() < 0.6
        assert torch.equal(codes.scales_NB, codes.scales_NB.to(stored.scale_dtype).float())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda given: {**given, "model.layers.9.mlp.up_proj": given["model.layers.0.mlp.up_proj"]}, "1 layers that"),
        (lambda given: {**given, "model.layers.0.mlp.up_proj": other(given, rows=64)}, r"are \(64, 64\)"),
        (
            lambda given: {**given, "model.layers.0.mlp.up_proj": other(given, block=64)},
            "blocks of 32, the codes are of",
        ),
        (lambda given: {**given, "model.layers.0.mlp.up_proj": other(given, code=9)}, "4 bits, -8 to 7; codes are"),
        (
            lambda given: {**given, "model.layers.0.mlp.up_proj": other(given, scale=-1)},
            "a scale of -1 in torch.bfloat16",
        ),
        (lambda given: {**given, "model.layers.0.mlp.up_proj": other(given, scale=1e-42)}, "a scale of 0 in torch.bfl"),
    ],
    ids=[
        "a name nobody has",
        "another shape",
        "another block",
        "a code beyond four bits",
        "a scale below zero",
        "a scale that bfloat16 does not hold",
    ],
)
def test_codes_that_do_not_fit_are_refused(change: Any, message: str) -> None:
    from edge_targets import _executorch_xnnpack as xnnpack

    decoder = xnnpack.Decoder(make_model(layers=1), CONTEXT)
    with pytest.raises(PackageError, match=message):
        xnnpack.quantize(decoder, "8da4w", 32, change(chosen_codes(make_model(layers=1))))


def other(given: dict[str, Any], *, rows: int = 128, block: int = 32, code: int = 0, scale: float = 1) -> Any:
    from edge_targets._executorch_weights import Codes

    return Codes(torch.full((rows, 64), code, dtype=torch.int8), torch.full((rows, 64 // block), float(scale)))


def test_codes_check_themselves() -> None:
    from edge_targets._executorch_weights import Codes

    with pytest.raises(ValueError, match=r"got torch.int32 and torch.float32"):
        Codes(torch.ones(2, 4, dtype=torch.int32), torch.ones(2, 1))
    with pytest.raises(ValueError, match=r"\(2, 4\) codes take scales .* got \(2, 3\)"):
        Codes(torch.ones(2, 4, dtype=torch.int8), torch.ones(2, 3))


# Backends that nothing here runs


@pytest.mark.parametrize("family", FAMILIES)
def test_core_mls_decoder_has_the_logits_of_the_hugging_face_model(family: str) -> None:
    from edge_targets._executorch_coreml import Decoder

    model = make_model(family, layers=2)
    with torch.no_grad():
        wanted = model(torch.tensor([TOKENS])).logits[0].numpy()
    decoder = Decoder(model, CONTEXT)
    np.testing.assert_allclose(eager(decoder), wanted, rtol=1e-3, atol=1e-4)
    # What was read in earlier calls comes back from a cache in half precision.
    np.testing.assert_allclose(eager(decoder, 17, 1, 22), wanted, atol=0.02 * wanted.std())


def test_a_text_does_not_see_what_core_mls_cache_holds_of_the_one_before() -> None:
    from edge_targets._executorch_coreml import Decoder

    decoder = Decoder(make_model(layers=2), CONTEXT)
    first = eager(decoder, 20, 20)
    with torch.no_grad():
        decoder(torch.tensor([list(reversed(TOKENS))]), torch.tensor([0]))
    np.testing.assert_array_equal(eager(decoder, 20, 20), first)


def test_core_mls_cache_may_start_as_anything() -> None:
    from edge_targets._executorch_coreml import Decoder

    clean, dirty = (Decoder(make_model(layers=2), CONTEXT) for _ in range(2))
    for layer in dirty.layers:
        layer.keys_1CKD.fill_(float("nan"))
        layer.values_1CKD.fill_(float("inf"))
    np.testing.assert_array_equal(eager(dirty, 20, 20), eager(clean, 20, 20))


@pytest.mark.parametrize("name", CANNOT_RUN)
def test_a_package_that_cannot_run_here_is_one_piece_of_its_backend(name: str, packages: dict[str, Path]) -> None:
    target = edge_targets.load(name)
    assert target.cannot_run_here
    assert target.inspect is not None
    found = target.inspect(packages[name])
    assert list(found["delegates"].values()) == [1]
    assert found["methods"]["get_max_context_len"] == [CONTEXT]
    assert not [operator for operator in found["operators_on_cpu"] if "linear" in operator or "mm" in operator]


@pytest.mark.parametrize("quantization", ["8w", "8da4w"])
def test_every_product_of_a_vulkan_program_is_on_stored_codes(
    quantization: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge_targets import _executorch_vulkan as vulkan
    from edge_targets._executorch_program import export

    seen: Counter[str] = Counter()
    inner = vulkan.operators

    def looked_at(edge: Any) -> Counter[str]:
        seen.update(inner(edge))
        return inner(edge)

    monkeypatch.setattr(vulkan, "operators", looked_at)
    decoder = vulkan.Decoder(make_model(layers=1), CONTEXT)
    vulkan.quantize(decoder, quantization, 32)
    vulkan.lower(export(decoder)[0], {})
    four_bits = LINEARS if quantization == "8da4w" else 0
    assert seen["et_vk.linear_dq8ca_q4gsw.default"] == four_bits
    assert seen["aten._weight_int8pack_mm.default"] == LINEARS + 1 - four_bits
    assert seen["sdpa_with_kv_cache.default"] == 1


def test_weights_that_vulkan_would_turn_into_float_at_every_call_are_refused() -> None:
    from edge_targets import _executorch_vulkan as vulkan
    from edge_targets import _executorch_xnnpack as xnnpack
    from edge_targets._executorch_program import export

    decoder = vulkan.Decoder(make_model(layers=1), CONTEXT)
    xnnpack.quantize(decoder, "8da8w", 32)  # rows of 8 bits as XNNPACK has them
    with pytest.raises(PackageError, match=r"products were not lowered to Vulkan|on weights in float"):
        vulkan.lower(export(decoder)[0], {})


def test_vulkan_is_told_no_scale_of_attention_which_its_runtime_refuses() -> None:
    from edge_targets import _executorch_vulkan as vulkan
    from edge_targets._executorch_program import export

    decoder = vulkan.Decoder(make_model(layers=1), CONTEXT)
    (attention,) = (
        node for node in export(decoder)[0].graph.nodes if node.target is torch.ops.llama.custom_sdpa.default
    )
    assert len(attention.args) == 7  # up to `is_causal`; `scale` would be the next
    assert "scale" not in attention.kwargs


def test_an_attention_scale_of_the_models_own_is_kept() -> None:
    from edge_targets._executorch_program import Decoder

    model = make_model(layers=2)
    for layer in model.model.layers:
        layer.self_attn.scaling *= 1.5
    with torch.no_grad():
        wanted = model(torch.tensor([TOKENS])).logits[0].numpy()
    np.testing.assert_allclose(eager(Decoder(model, CONTEXT)), wanted, rtol=1e-3, atol=1e-4)


def squared(operations: list[Any]) -> list[str]:
    """What is multiplied with itself in Core ML's description, or raised to a power."""
    given = [
        (one.type, [part.name for name in ("x", "y") for part in one.inputs[name].arguments]) for one in operations
    ]
    return [names[0] for kind, names in given if kind in ("square", "pow") or (kind == "mul" and names[0] == names[-1])]


def outgrown(gain: float) -> Any:
    """A tiny model whose residual stream is so much larger after its first layer."""
    model = make_model("qwen3", layers=2)
    model.model.layers[0].mlp.down_proj.weight.data *= gain
    return model


def test_core_mls_norms_hold_in_float16_what_is_far_over_the_root_of_its_largest() -> None:
    from edge_targets._executorch_coreml import Decoder

    model = outgrown(3e3)
    with torch.no_grad():
        entered = model.model(torch.tensor([TOKENS]), output_hidden_states=True).hidden_states
        wanted = model(torch.tensor([TOKENS])).logits[0].numpy()
    assert 1e3 < max(float(one.abs().max()) for one in entered) < 65504
    decoder = Decoder(model, CONTEXT).half()
    torch.set_default_dtype(torch.float16)
    try:
        halved = eager(decoder)
    finally:
        torch.set_default_dtype(torch.float32)
    np.testing.assert_allclose(halved, wanted, atol=0.03 * wanted.std())


def test_core_mls_norm_is_that_of_the_model_for_vectors_of_any_size() -> None:
    from edge_targets._executorch_coreml import _Norm

    norm = make_model(layers=1).model.norm
    x_SH = torch.randn(64, norm.weight.numel(), generator=torch.Generator().manual_seed(2))
    x_SH *= 10.0 ** torch.linspace(-6, 4, 64)[:, None]
    torch.testing.assert_close(_Norm(norm)(x_SH), norm(x_SH), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(_Norm(norm).half()(x_SH.half()).float(), norm(x_SH), rtol=0.02, atol=0.01)
    assert _Norm(norm).half()(torch.zeros_like(x_SH).half()).abs().max() == 0


def test_core_ml_refuses_a_model_whose_residual_stream_float16_does_not_hold(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    with pytest.raises(PackageError, match=r"computes values of .* float16 ends at 65504"):
        build(write_base(checkpoint, outgrown(1e4)), tmp_path / "package", "iphone_coreml", "8w")


def test_core_ml_decodes_one_token_keeps_no_state_and_multiplies_stored_codes(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge_targets import _executorch_coreml as coreml

    specs: list[Any] = []
    inner = coreml.specification
    monkeypatch.setattr(coreml, "specification", lambda piece: specs.append(inner(piece)) or specs[-1])
    counted_bytes: list[int] = []
    kv_cache_bytes = _package.kv_cache_bytes
    monkeypatch.setattr(
        _package, "kv_cache_bytes", lambda *given: counted_bytes.append(kv_cache_bytes(*given)) or counted_bytes[-1]
    )
    build(checkpoint, tmp_path / "package", "iphone_coreml", "8w")
    (spec,) = specs
    positions = spec.description.input[0].type.multiArrayType.shapeRange.sizeRanges[1]
    assert (positions.lowerBound, positions.upperBound) == (1, CONTEXT - 1)
    assert not spec.description.state
    assert counted_bytes == [2 * CONTEXT * 2 * 16 * 2]  # keys and values, positions, heads, head size, bytes
    counted = Counter(operation.type for operation in coreml.operations(spec))
    assert counted["linear"] == LINEARS + 1
    made_by = {output.name: one.type for one in coreml.operations(spec) for output in one.outputs}
    # Each norm squares a vector that was divided by its largest, which float16 would not hold else, and its epsilon times a gain.
    assert [made_by[name] for name in squared(coreml.operations(spec))] == ["real_div", "mul"] * NORMS
    # The tied head and embedding are one constant.
    assert counted["constexpr_blockwise_shift_scale"] == LINEARS + 1


def test_core_ml_states_and_float_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from edge_targets import _executorch_coreml as coreml
    from edge_targets._executorch_program import export

    exported, _ = export(coreml.Decoder(make_model(layers=1), CONTEXT))
    with pytest.raises(PackageError, match=r"Core ML would multiply with float weights \(const\)"):
        coreml.lower(exported, {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"context_length": 95}, r"get_max_context_len of .* answers \[96\], package.json says \[95\]"),
        ({"eos_token_ids": [2]}, r"get_eos_ids of .* answers \[1\], package.json says \[2\]"),
    ],
)
def test_a_program_that_says_otherwise_than_its_package_is_refused(
    change: dict[str, Any], message: str, packages: dict[str, Path], tmp_path: Path
) -> None:
    copy = shutil.copytree(packages["android_vulkan"], tmp_path / "copy")
    facts = json.loads((copy / "package.json").read_text())
    (copy / "package.json").write_text(json.dumps({**facts, **change}))
    inspect = edge_targets.load("android_vulkan").inspect
    assert inspect is not None
    with pytest.raises(PackageError, match=message):
        inspect(copy)


def test_another_backends_program_is_refused(packages: dict[str, Path]) -> None:
    with pytest.raises(PackageError, match=r"holds {'CoreMLBackend': 1}; wanted one piece of VulkanBackend"):
        _executorch_inspect.inspect(packages["iphone_coreml"], backend="VulkanBackend", beside=())
    with pytest.raises(PackageError, match="leaves quantized_decomposed::embedding_byte to the CPU"):
        _executorch_inspect.inspect(packages["android_vulkan"], backend="VulkanBackend", beside=())


def test_a_program_cut_short_is_refused(packages: dict[str, Path], tmp_path: Path) -> None:
    copy = shutil.copytree(packages["android_vulkan"], tmp_path / "copy")
    content = (copy / "model.pte").read_bytes()
    (copy / "model.pte").write_bytes(content[: len(content) // 3])
    with pytest.raises(PackageError, match="ExecuTorch cannot read"):
        _executorch_inspect.inspect(copy, backend="VulkanBackend", beside=())


def test_running_a_vulkan_package_here_says_that_it_does_not_load(packages: dict[str, Path]) -> None:
    with pytest.raises(PackageError, match="ExecuTorch cannot load"):
        load(packages["android_vulkan"], 1)


@pytest.mark.parametrize("name", CANNOT_RUN)
def test_what_a_package_leaves_to_the_cpu_is_among_the_operators_that_executorch_ships(
    name: str, packages: dict[str, Path]
) -> None:
    import executorch.kernels.quantized  # noqa: F401
    from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401
    from executorch.extension.pybindings.portable_lib import _get_operator_names

    inspect = edge_targets.load(name).inspect
    assert inspect is not None
    shipped = {operator.split(".")[0] for operator in _get_operator_names()}
    assert set(inspect(packages[name])["operators_on_cpu"]) <= shipped


# Every phone target


@pytest.mark.parametrize(("name", "quantization"), [("iphone_arm64", "8da4w"), ("android_vulkan", "8da4w")])
def test_two_builds_give_the_same_bytes(name: str, quantization: str, checkpoint: Path, tmp_path: Path) -> None:
    builds = [build(checkpoint, tmp_path / str(count), name, quantization) for count in range(2)]
    first, second = ({path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} for folder in builds)
    assert first == second
    assert "varies" not in json.loads(first["package.json"])


def test_a_core_ml_package_says_which_of_its_files_another_build_writes_otherwise(packages: dict[str, Path]) -> None:
    facts = json.loads((packages["iphone_coreml"] / "package.json").read_text())
    assert facts["varies"].keys() == {"model.pte"}


def test_iphones_and_android_phones_get_the_same_program_of_the_same_subnet(checkpoint: Path, tmp_path: Path) -> None:
    programs = [
        (build(checkpoint, tmp_path / name, name, "8da8w") / "model.pte").read_bytes()
        for name in ("iphone_arm64", "android_arm64")
    ]
    assert programs[0] == programs[1]


def test_a_backend_offers_what_it_multiplies(checkpoint: Path, tmp_path: Path) -> None:
    for backend, offered in (("vulkan", "8w, 8da4w"), ("coreml", "8w, 4w")):
        with pytest.raises(PackageError, match=f"'8da8w'; offered are {offered}"):
            _executorch.package(request(checkpoint, "8da8w"), tmp_path, target="x", backend=backend)  # type: ignore[arg-type]


def test_what_needs_an_sdk_is_refused_with_where_its_path_goes() -> None:
    with pytest.raises(ValueError, match=r"Qualcomm AI Engine Direct SDK .* QNN_SDK_ROOT"):
        edge_targets.load("android_qnn")
    assert "android_qnn" not in edge_targets.names()


# ExecuTorch's own text runner

RUN = """
import json, sys
import torch
import executorch.kernels.quantized
from executorch.extension.llm.custom_ops import custom_ops
from executorch.extension.llm.runner import GenerationConfig, TextLLMRunner

folder, prompts, most = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
runner, answers = TextLLMRunner(f"{folder}/model.pte", f"{folder}/tokenizer.json"), []
for prompt in prompts:
    pieces, stats = [], []
    config = GenerationConfig(echo=False, max_new_tokens=most, temperature=0.0)
    runner.generate(prompt, config, pieces.append, lambda given: stats.append(given.num_prompt_tokens))
    runner.reset()
    answers.append({"text": "".join(pieces), "prompt_tokens": stats[-1]})
print("ANSWERS" + json.dumps(answers))
"""


@pytest.fixture(scope="module")
def speaking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package whose tokenizer is of the kind that the C++ tokenizer reads: bytes and merges."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    folder = write_base(tmp_path_factory.mktemp("speaking"), make_model(layers=1))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    letters = [letter for letter in alphabet if letter.isascii()][: VOCABULARY - 3]
    vocabulary = {word: index for index, word in enumerate(["<start>", "<end>", *letters, "Ġ"])}
    assert {"Ġ", "a", "z"} <= vocabulary.keys()
    assert len(vocabulary) == VOCABULARY
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<start>", "<end>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text("{% for m in messages %}<start>{{ m['content'] }}<end>{% endfor %}")
    return build(folder, tmp_path_factory.mktemp("package") / "package", "iphone_arm64", "8da8w")


def by_the_text_runner(package: Path, prompts: list[str], most: int) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(package), json.dumps(prompts), str(most)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (line,) = (line for line in done.stdout.splitlines() if "ANSWERS" in line)
    answers: list[dict[str, Any]] = json.loads(line.split("ANSWERS", 1)[1])
    return answers


def test_executorchs_text_runner_says_what_ours_says(speaking: Path) -> None:
    prompts = ["<start>hello<end>", "what is this"]
    answers = by_the_text_runner(speaking, prompts, 12)
    runner, text = load(speaking, 1), Text(speaking)
    for prompt, answer in zip(prompts, answers, strict=True):
        tokens = text.encode(prompt)
        assert answer["prompt_tokens"] == len(tokens)  # special tokens are one each, and none is added
        assert answer["text"].replace("<end>", "") == text.decode(list(runner.generate(tokens, 12)))


def test_executorchs_text_runner_reads_a_prompt_that_is_longer_than_a_call(speaking: Path) -> None:
    tokens = Text(speaking).encode("a b c " * 13)
    runner = load(speaking, 1)
    assert len(tokens) > 64
    (answer,) = by_the_text_runner(speaking, ["a b c " * 13], 6)
    assert answer["prompt_tokens"] == len(tokens)
    assert answer["text"].replace("<end>", "") == Text(speaking).decode(list(runner.generate(tokens, 6)))
