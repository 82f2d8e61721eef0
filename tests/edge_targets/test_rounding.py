"""Rounding that looks at the inputs, against the slow obvious things: enumeration, least squares, rounding to nearest."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixtures.tiny import VOCABULARY, make_model, write_base
from torch import Tensor
from transformers import PreTrainedModel

from components.mixed import MixedConfig, MixedForCausalLM
from components.reference import load_checkpoint
from components.selection import LayerCut
from components.shape import Shape
from edge_targets import _rounding
from edge_targets._rounding import calibrated, gptq, steps
from edge_targets._target import Grid, PackageError, PackageRequest

TEXT_WT = np.random.default_rng(0).integers(2, VOCABULARY, (8, 48)).astype(np.int32)


def correlated_inputs(tokens: int, width: int) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(tokens, width) @ torch.randn(width, width)


def output_error(weight_NK: Tensor, codes_NK: Tensor, scales_NB: Tensor, block: int, gram_KK: Tensor) -> Tensor:
    """Mean squared error of every output on inputs of that Gram matrix, [N]."""
    off_NK = weight_NK - codes_NK * scales_NB.repeat_interleave(block, dim=1)[:, : weight_NK.shape[1]]
    return ((off_NK @ gram_KK) * off_NK).sum(1)


def nearest(weight_NK: Tensor, scales_NB: Tensor, block: int, middle: int) -> Tensor:
    return (weight_NK / scales_NB.repeat_interleave(block, dim=1)).round().clamp(-middle, middle - 1)


def test_inputs_that_have_nothing_to_do_with_each_other_leave_rounding_to_nearest() -> None:
    torch.manual_seed(0)
    weight_NK = torch.randn(6, 16)
    codes_NK, scales_NB = gptq(weight_NK, torch.eye(16), Grid(4, 8))
    assert torch.equal(codes_NK, nearest(weight_NK, scales_NB, 8, 8))


def test_correlated_inputs_leave_a_smaller_output_error_than_rounding_to_nearest() -> None:
    inputs_TK = correlated_inputs(200, 64)
    gram_KK = inputs_TK.T @ inputs_TK / 200
    weight_NK = torch.randn(32, 64)
    codes_NK, scales_NB = gptq(weight_NK, gram_KK, Grid(4, 16))
    ours = output_error(weight_NK, codes_NK, scales_NB, 16, gram_KK)
    plain = output_error(weight_NK, nearest(weight_NK, scales_NB, 16, 8), scales_NB, 16, gram_KK)
    assert ours.sum() < 0.6 * plain.sum()


def test_few_columns_are_rounded_nearly_as_well_as_by_trying_every_code() -> None:
    inputs_TK = correlated_inputs(50, 4)
    gram_KK = inputs_TK.T @ inputs_TK / 50
    weight_NK = torch.randn(16, 4)
    codes_NK, scales_NB = gptq(weight_NK, gram_KK, Grid(2, 4))
    every = torch.tensor(list(itertools.product(range(-2, 2), repeat=4)), dtype=torch.float32)
    best = torch.stack(
        [
            output_error(row[None].expand(len(every), 4), every, scale[None].expand(len(every), 1), 4, gram_KK).min()
            for row, scale in zip(weight_NK, scales_NB, strict=True)
        ]
    )
    ours = output_error(weight_NK, codes_NK, scales_NB, 4, gram_KK)
    plain = output_error(weight_NK, nearest(weight_NK, scales_NB, 4, 2), scales_NB, 4, gram_KK)
    assert (ours >= best - 1e-5).all()
    assert ours.sum() - best.sum() < 0.5 * (plain.sum() - best.sum())


def test_the_columns_that_are_left_take_over_the_error_as_least_squares_would() -> None:
    inputs_TK = correlated_inputs(100, 5)
    gram_KK = (inputs_TK.T @ inputs_TK / 100).double()
    factor_KK = _rounding._inverse_factor(gram_KK)
    # The first column is off by one: what the other four should become, by the normal equations.
    wanted = torch.linalg.solve(gram_KK[1:, 1:], gram_KK[1:, 0])
    assert torch.allclose(-factor_KK[0, 1:] / factor_KK[0, 0], wanted, atol=1e-8)


def test_a_step_is_at_least_as_good_as_the_one_that_reaches_the_largest_weight() -> None:
    torch.manual_seed(0)
    weight_NBC, power_BC = torch.randn(20, 3, 32), torch.rand(3, 32)
    found_NB1 = steps(weight_NBC, power_BC, Grid(4, 32))[..., None]
    furthest_NB1 = weight_NBC.gather(2, weight_NBC.abs().argmax(2, keepdim=True)) / -8

    def error(step_NB1: Tensor) -> Tensor:
        codes_NBC = (weight_NBC / step_NB1).round().clamp(-8, 7)
        return ((weight_NBC - codes_NBC * step_NB1).square() * power_BC).sum(2)

    assert (error(found_NB1) <= error(furthest_NB1) + 1e-6).all()
    assert error(found_NB1).sum() < 0.9 * error(furthest_NB1).sum()


def test_scales_are_positive_where_a_runtime_takes_no_others() -> None:
    torch.manual_seed(0)
    weight_NBC, power_BC = torch.randn(20, 3, 32), torch.rand(3, 32)
    assert (steps(weight_NBC, power_BC, Grid(4, 32)) < 0).any()
    for scales in ("float32", "float16", "bfloat16"):
        found_NB = steps(weight_NBC, power_BC, Grid(4, 32, positive=True, scales=scales))
        assert (found_NB > 0).all()
        assert torch.equal(found_NB, found_NB.to(getattr(torch, scales)).float())


def test_a_block_of_zeros_stays_zero_and_finite() -> None:
    codes_NK, scales_NB = gptq(torch.zeros(3, 32), torch.eye(32), Grid(4, 16))
    assert torch.equal(codes_NK, torch.zeros(3, 32))
    assert scales_NB.isfinite().all()


@pytest.mark.parametrize("scales", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("positive", [True, False])
def test_a_block_of_next_to_nothing_has_a_step_that_is_a_normal_number(scales: Any, positive: bool) -> None:
    smallest = torch.finfo(getattr(torch, scales)).tiny
    for size in (0.0, 1e-9, -1e-9, 1e-40):
        _, scales_NB = gptq(torch.full((3, 32), size), torch.eye(32), Grid(4, 16, positive, scales))
        assert (scales_NB.to(getattr(torch, scales)).abs() >= smallest).all()
        assert not positive or (scales_NB > 0).all()


def test_a_last_block_may_be_shorter() -> None:
    inputs_TK = correlated_inputs(100, 40)
    codes_NK, scales_NB = gptq(torch.randn(3, 40), inputs_TK.T @ inputs_TK, Grid(4, 32))
    assert codes_NK.shape == (3, 40)
    assert scales_NB.shape == (3, 2)


def request_of(folder: Path, model: PreTrainedModel) -> PackageRequest:
    return PackageRequest(write_base(folder, model), Shape(4, 100), "int4", 64, TEXT_WT)


def divergence(checkpoint: Path, changed: PreTrainedModel) -> float:
    """Mean KL from the float checkpoint's next tokens to the changed model's, on text that calibration did not see."""
    text = torch.randint(2, VOCABULARY, (4, 48), generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        wanted, given = (model(text).logits.log_softmax(-1) for model in (load_checkpoint(checkpoint), changed))
    return float((wanted.exp() * (wanted - given)).sum(-1).mean())


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_a_calibrated_model_is_nearer_to_float_than_one_rounded_to_nearest(family: str, tmp_path: Path) -> None:
    model = make_model(family)
    request = request_of(tmp_path, model)
    rounded = calibrated(request, Grid(4, 32))
    ours, plain = load_checkpoint(tmp_path), load_checkpoint(tmp_path)
    with torch.no_grad():
        for name, one in rounded.items():
            kept_NK = one.codes_NK * np.repeat(one.scales_NB, 32, axis=1)
            ours.get_submodule(name).weight.copy_(torch.from_numpy(kept_NK))
            weight_NK = plain.get_submodule(name).weight
            widest_NB = steps(weight_NK.reshape(len(weight_NK), -1, 32), torch.ones(1, 32), Grid(4, 32))
            weight_NK.copy_(nearest(weight_NK, widest_NB, 32, 8) * widest_NB.repeat_interleave(32, dim=1))
    assert divergence(tmp_path, ours) < 0.9 * divergence(tmp_path, plain)


def test_every_layer_between_embedding_and_head_is_rounded(tmp_path: Path) -> None:
    model = make_model()
    rounded = calibrated(request_of(tmp_path, model), Grid(4, 32))
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert rounded.keys() == linear - {"lm_head"}
    assert all(one.codes_NK.min() >= -8 and one.codes_NK.max() <= 7 for one in rounded.values())


def test_a_mixed_shape_s_missing_blocks_are_left_out(tmp_path: Path) -> None:
    base = make_model()
    cuts = (LayerCut(0, True, 128), LayerCut(1, True, 0), LayerCut(2, False, 64), LayerCut(3, True, 64))
    mixed = MixedForCausalLM(MixedConfig.of(base.config, type(base).__name__, cuts)).eval()
    rounded = calibrated(request_of(tmp_path, mixed), Grid(4, 32))
    assert "model.layers.1.mlp.up_proj" not in rounded
    assert "model.layers.2.self_attn.q_proj" not in rounded
    assert len(rounded) == 3 * 4 + 3 * 3


def test_the_same_text_gives_the_same_codes(tmp_path: Path) -> None:
    request = request_of(tmp_path, make_model())
    first, second = calibrated(request, Grid(4, 32)), calibrated(request, Grid(4, 32))
    assert all(np.array_equal(first[name].codes_NK, second[name].codes_NK) for name in first)


def test_no_calibration_text_is_refused(tmp_path: Path) -> None:
    request = PackageRequest(write_base(tmp_path, make_model()), Shape(4, 100), "int4", 64)
    with pytest.raises(PackageError, match="int4 is rounded on calibration text, and none was given"):
        calibrated(request, Grid(4, 32))
