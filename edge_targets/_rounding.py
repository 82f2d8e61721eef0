"""Rounding to few bits that looks at what each layer reads: GPTQ (arXiv 2210.17323) in blocks of weights.

Round-to-nearest makes the error of each weight small. What counts is the error of a layer's output on text like that the
model will read, so here

1. a block's step is searched for the least squared error with each weight counted by the power of its input;
2. columns are rounded one after another, the input of most power first, and those still to come take over what the rounded
   ones changed, as far as their inputs are correlated (sections 3.2 and 3.3);
3. a layer is calibrated on what the already rounded layers before it send on.

On SmolLM2-135M at 4 bits in blocks of 32 (`benchmarks/rounding.py`) the three together leave a third of round-to-nearest's
perplexity loss.

Dimensions: N outputs and K inputs of a linear layer, B blocks of K, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from components.progress import progress
from components.reference import load_checkpoint
from edge_targets._target import Grid, PackageError, PackageRequest

_DAMPING = 0.01
"""Added to the Gram matrix's diagonal, as a share of its mean: calibration text never excites every direction."""
_STEP_FACTORS = (0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.14)
"""Of the step that reaches a block's largest weight. Each is tried with either sign, as one code has no positive twin."""
_SAME_INPUT = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)
_WINDOWS_AT_ONCE = 4


@dataclass(frozen=True)
class Rounded:
    """A weight [N, K] as `codes_NK * scales_NB`, each scale repeated over its block of K / B columns."""

    codes_NK: NDArray[np.int8]
    """From -2^(bits-1) to 2^(bits-1) - 1."""
    scales_NB: NDArray[np.float32]


@torch.no_grad()
def calibrated(request: PackageRequest, grid: Grid) -> Mapping[str, Rounded]:
    """Every linear layer between embedding and head, by module name, rounded for text like the request's.

    Raises PackageError for a request that brings no calibration text.
    """
    if request.calibration_WT is None or not request.calibration_WT.size:
        raise PackageError(
            f"{request.quantization} is rounded on calibration text, and none was given: --calibration takes a data folder"
        )
    model: Any = load_checkpoint(request.checkpoint)
    windows_WT = torch.from_numpy(request.calibration_WT.astype(np.int64))
    states_WTH: Tensor = model.model.embed_tokens(windows_WT)
    layers, rounded = model.model.layers, {}
    advance = progress("calibrated rounding")
    for index, layer in enumerate(layers):
        grams = _grams(model, layer, states_WTH)
        for names in _SAME_INPUT:
            modules = {name: layer.get_submodule(name) for name in names if _has(layer, name)}
            if modules:
                stacked = _round_together(modules, grams[names[0]], grid)
                rounded.update({f"model.layers.{index}.{name}": one for name, one in stacked.items()})
        states_WTH = torch.cat(list(_through(model, layer, states_WTH)))
        advance(index + 1, len(layers))
    return rounded


def _round_together(modules: Mapping[str, nn.Linear], gram_KK: Tensor, grid: Grid) -> Mapping[str, Rounded]:
    """Modules that read the same input, rounded as one; their weights become what was kept of them."""
    weight_NK = torch.cat([module.weight for module in modules.values()])
    codes_NK, scales_NB = gptq(weight_NK, gram_KK, grid)
    rows = [len(module.weight) for module in modules.values()]
    rounded = {}
    for (name, module), codes_nK, scales_nB in zip(
        modules.items(), codes_NK.split(rows), scales_NB.split(rows), strict=True
    ):
        repeated_nK = scales_nB.repeat_interleave(grid.block, dim=1)[:, : codes_nK.shape[1]]
        module.weight.copy_(codes_nK * repeated_nK)
        rounded[name] = Rounded(codes_nK.to(torch.int8).numpy(), scales_nB.numpy())
    return rounded


def gptq(weight_NK: Tensor, gram_KK: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Codes [N, K] and scales [N, B] for inputs x whose mean x x^T is `gram_KK`; both are float32, codes whole numbers.

    A last block that is not full is one of fewer columns.
    """
    (outputs, columns), block, middle = weight_NK.shape, grid.block, 1 << (grid.bits - 1)
    padding = -columns % block
    weight_NK = F.pad(weight_NK, (0, padding))
    gram_KK = F.pad(gram_KK.double(), (0, padding, 0, padding))
    inputs = columns + padding
    gram_KK.diagonal().add_(_DAMPING * gram_KK.diagonal().mean() or 1.0)
    power_K = gram_KK.diagonal().float()
    scales_NB = steps(weight_NK.reshape(outputs, -1, block), power_K.reshape(-1, block), grid)
    order_K = power_K.argsort(descending=True, stable=True)
    factor_KK = _inverse_factor(gram_KK[order_K][:, order_K]).float()
    left_NK, steps_NK = weight_NK[:, order_K].clone(), scales_NB.repeat_interleave(block, dim=1)[:, order_K]
    codes_NK = torch.empty_like(left_NK)
    for start in range(0, inputs, block):
        chunk = slice(start, min(start + block, inputs))
        errors_NC = torch.empty_like(left_NK[:, chunk])
        for column in range(chunk.start, chunk.stop):
            codes_N = (left_NK[:, column] / steps_NK[:, column]).round().clamp(-middle, middle - 1)
            error_N = (left_NK[:, column] - codes_N * steps_NK[:, column]) / factor_KK[column, column]
            left_NK[:, column : chunk.stop] -= error_N[:, None] * factor_KK[column, column : chunk.stop]
            codes_NK[:, column], errors_NC[:, column - start] = codes_N, error_N
        left_NK[:, chunk.stop :] -= errors_NC @ factor_KK[chunk, chunk.stop :]
    in_place_NK = torch.empty_like(codes_NK)
    in_place_NK[:, order_K] = codes_NK
    return in_place_NK[:, :columns], scales_NB


def steps(weight_NBC: Tensor, power_BC: Tensor, grid: Grid) -> Tensor:
    """The step of every block, [N, B]: the one of `_STEP_FACTORS`, refitted by least squares, of least weighted error.

    None is smaller than the smallest normal number of the type it is kept in: runtimes refuse a step of nothing.
    """
    middle, kept = 1 << (grid.bits - 1), getattr(torch, grid.scales)
    furthest_NB1 = weight_NBC.gather(2, weight_NBC.abs().argmax(2, keepdim=True))
    widest_NB1 = torch.where(furthest_NB1 == 0, torch.ones_like(furthest_NB1), furthest_NB1 / -middle)
    if grid.positive:
        widest_NB1 = widest_NB1.abs()
    best_NB1, least_NB1 = torch.ones_like(widest_NB1), torch.full_like(widest_NB1, torch.inf)
    for factor in (sign * size for sign in ((1,) if grid.positive else (1, -1)) for size in _STEP_FACTORS):
        codes_NBC = _codes(weight_NBC, widest_NB1 * factor, middle)
        powers_NB1 = (codes_NBC.square() * power_BC).sum(2, keepdim=True)
        fitted_NB1 = (weight_NBC * codes_NBC * power_BC).sum(2, keepdim=True) / powers_NB1
        fitted_NB1 = torch.where((powers_NB1 > 0) & (fitted_NB1 * factor * widest_NB1 > 0), fitted_NB1, widest_NB1)
        fitted_NB1 = fitted_NB1.abs().clamp(min=torch.finfo(kept).tiny).copysign(fitted_NB1).to(kept).float()
        error_NBC = weight_NBC - _codes(weight_NBC, fitted_NB1, middle) * fitted_NB1
        error_NB1 = (error_NBC.square() * power_BC).sum(2, keepdim=True)
        better_NB1 = error_NB1 < least_NB1
        best_NB1 = torch.where(better_NB1, fitted_NB1, best_NB1)
        least_NB1 = torch.where(better_NB1, error_NB1, least_NB1)
    return best_NB1[..., 0]


def _codes(weight_NBC: Tensor, step_NB1: Tensor, middle: int) -> Tensor:
    return (weight_NBC / step_NB1).round_().clamp_(-middle, middle - 1)


def _inverse_factor(gram_KK: Tensor) -> Tensor:
    """The upper Cholesky factor of the inverse (section 3.3, step 3)."""
    inverse_KK = torch.cholesky_inverse(torch.linalg.cholesky(gram_KK))
    factor_KK: Tensor = torch.linalg.cholesky(inverse_KK, upper=True)
    return factor_KK


def _grams(model: Any, layer: Any, states_WTH: Tensor) -> Mapping[str, Tensor]:
    """Mean x x^T of what the first of each group of modules reads, every token scaled to length one.

    A window's first token draws the attention of all others and has activations hundreds of times the usual: a matrix
    with it unscaled describes that token.
    """
    sums: dict[str, Tensor] = {}
    hooks = []
    for name in (names[0] for names in _SAME_INPUT if _has(layer, names[0])):

        def add(module: nn.Module, inputs: tuple[Tensor], name: str = name) -> None:
            rows_TK = F.normalize(inputs[0].flatten(0, -2), dim=1)
            sums[name] = sums.get(name, torch.zeros(())) + rows_TK.T @ rows_TK

        hooks.append(layer.get_submodule(name).register_forward_pre_hook(add))
    for _ in _through(model, layer, states_WTH):
        pass
    for hook in hooks:
        hook.remove()
    tokens = states_WTH.shape[0] * states_WTH.shape[1]
    return {name: total / tokens for name, total in sums.items()}


def _through(model: Any, layer: Any, states_WTH: Tensor) -> Iterator[Tensor]:
    """The layer's output for a few windows at a time."""
    positions_1T = torch.arange(states_WTH.shape[1])[None]
    for states_BTH in states_WTH.split(_WINDOWS_AT_ONCE):
        rotary = model.model.rotary_emb(states_BTH, positions_1T)
        out: Any = layer(states_BTH, position_embeddings=rotary, attention_mask=None, position_ids=positions_1T)
        yield out[0] if isinstance(out, tuple) else out


def _has(layer: Any, name: str) -> bool:
    """Whether a layer has this block; a mixed shape's layers may lack one."""
    try:
        return isinstance(layer.get_submodule(name), nn.Linear)
    except AttributeError:
        return False
