"""Weights as a phone stores them: integer codes and a scale a block, rounded here or handed in by a calibration.

XNNPACK keeps the scales of 4-bit groups in bfloat16, so codes are chosen for scales that are bfloat16 already: the
program then holds exactly what was asked for.

Legend: N rows (outputs), K columns (inputs), B blocks of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edge_targets._target import PackageError


@dataclass(frozen=True)
class Stored:
    """How a layer's weights are kept: `bits` each, one scale for `block` columns (None is a whole row)."""

    bits: int
    block: int | None = None
    scale_dtype: torch.dtype = torch.float32

    def block_of(self, columns: int) -> int:
        return self.block or columns


@dataclass(frozen=True)
class Codes:
    """Signed codes [N, K] in int8 and scales [N, B] in float32; a weight is code times scale."""

    codes_NK: Tensor
    scales_NB: Tensor

    def __post_init__(self) -> None:
        codes, scales = self.codes_NK, self.scales_NB
        if codes.dtype != torch.int8 or scales.dtype != torch.float32:
            raise ValueError(f"codes are int8 and scales float32, got {codes.dtype} and {scales.dtype}")
        if scales.ndim != 2 or codes.ndim != 2 or len(scales) != len(codes) or codes.shape[1] % scales.shape[1]:
            raise ValueError(
                f"{tuple(codes.shape)} codes take scales of as many rows, and of blocks that divide "
                f"{codes.shape[-1]} columns; got {tuple(scales.shape)}"
            )

    @property
    def block(self) -> int:
        return self.codes_NK.shape[1] // self.scales_NB.shape[1]

    def weight_NK(self) -> Tensor:
        return self.codes_NK.float() * self.scales_NB.repeat_interleave(self.block, 1)


def nearest(weight_NK: Tensor, stored: Stored) -> Codes:
    """Round to nearest, symmetric: the largest weight of a block is half a step beyond the highest code."""
    low, high = -(1 << stored.bits - 1), (1 << stored.bits - 1) - 1
    blocks_NBk = weight_NK.detach().float().unflatten(1, (-1, stored.block_of(weight_NK.shape[1])))
    scales_NB = blocks_NBk.abs().amax(-1).div((high - low) / 2).clamp(min=torch.finfo(torch.float32).eps)
    scales_NB = scales_NB.to(stored.scale_dtype).float()
    codes_NBk = (blocks_NBk / scales_NB[..., None]).round().clamp(low, high)
    return Codes(codes_NBk.flatten(1).to(torch.int8), scales_NB)


def store(
    decoder: nn.Module,
    how: Callable[[str], Stored],
    given: Mapping[str, Codes] | None = None,
    *,
    eight_bit_activations: bool,
) -> None:
    """Replace the weight of every linear layer by codes: those `given` for it by its name in the checkpoint, or the nearest.

    Raises PackageError for codes of another shape or storage than the layer's, and for names that no layer has.
    """
    left = dict(given or {})
    for name, module in decoder.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        stored, known_as = how(name), checkpoint_name(name)
        codes = left.pop(known_as, None)
        if codes is None:
            codes = nearest(module.weight, stored)
        _check(codes, stored, module, known_as)
        module.weight = nn.Parameter(_tensor(codes, stored, eight_bit_activations), requires_grad=False)
    if left:
        raise PackageError(f"codes were given for {len(left)} layers that the model has not, the first is {min(left)}")


def store_embedding(decoder: nn.Module, stored: Stored) -> None:
    """The same for the table of embeddings."""
    for module in decoder.modules():
        if isinstance(module, nn.Embedding):
            # A padding index keeps the table from being looked up as codes.
            module.padding_idx = None
            module.weight = nn.Parameter(_tensor(nearest(module.weight, stored), stored, False), requires_grad=False)


def finish(decoder: nn.Module, quantization: str) -> None:
    """Make codes ordinary tensors that are exported; raises PackageError naming any layer that is still in float."""
    from torchao.utils import unwrap_tensor_subclass

    left = [
        name
        for name, module in decoder.named_modules()
        if isinstance(module, nn.Linear | nn.Embedding) and type(module.weight.data) is Tensor
    ]
    if left:
        raise PackageError(
            f"{quantization} left {len(left)} layers in float, the first is {left[0]}; nothing was built"
        )
    unwrap_tensor_subclass(decoder)


def checkpoint_name(name: str) -> str:
    """A layer's name in the checkpoint, from its name in the decoder: `layers.3.q` is `model.layers.3.self_attn.q_proj`."""
    if name == "head":
        return "lm_head"
    start, _, last = name.rpartition(".")
    return f"model.{start}.self_attn.{last}_proj" if len(last) == 1 else f"model.{name}"


def _check(codes: Codes, stored: Stored, module: nn.Linear, name: str) -> None:
    if codes.codes_NK.shape != module.weight.shape:
        raise PackageError(
            f"{name} has weights of {tuple(module.weight.shape)}, the codes are {tuple(codes.codes_NK.shape)}"
        )
    wanted = stored.block_of(module.in_features)
    if codes.block != wanted:
        raise PackageError(f"{name} is stored in blocks of {wanted}, the codes are of blocks of {codes.block}")
    low, high = (int(extreme) for extreme in codes.codes_NK.aminmax())
    least = -(1 << stored.bits - 1)
    if low < least or high > -least - 1:
        raise PackageError(
            f"{name} is stored in {stored.bits} bits, {least} to {-least - 1}; codes are {low} to {high}"
        )
    smallest = float(codes.scales_NB.to(stored.scale_dtype).min())
    if not smallest > 0:
        raise PackageError(f"{name} has a scale of {smallest:g} in {stored.scale_dtype}; scales are positive")


def _tensor(codes: Codes, stored: Stored, eight_bit_activations: bool) -> Tensor:
    from torchao.quantization.quantize_.workflows.intx.intx_unpacked_to_int8_tensor import IntxUnpackedToInt8Tensor

    # What a runtime keeps in 16 bits is rounded here, so that torch computes what the device will.
    scales_NB = codes.scales_NB.to(stored.scale_dtype).float()
    tensor: Tensor = IntxUnpackedToInt8Tensor(
        codes.codes_NK.contiguous(),
        scales_NB,
        torch.zeros_like(scales_NB, dtype=torch.int8),
        getattr(torch, f"int{stored.bits}"),
        (1, codes.block),
        torch.float32,
        "int8_asym_per_token" if eight_bit_activations else None,
    )
    return tensor
