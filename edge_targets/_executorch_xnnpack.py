"""XNNPACK: integer products on any phone's processor, and on this machine.

8da8w keeps weights in 8 bits with a scale a row. 8da4w keeps those of the layers in 4 bits with a bfloat16 scale a group,
and the head in 8: on SmolLM2-135M, rounded to nearest, perplexity is then 28.5 and not 31.6 (float 21.4).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir.backend.compile_spec_schema import CompileSpec
from executorch.exir.backend.partitioner import DelegationSpec
from torch import nn

from edge_targets import _executorch_weights as weights
from edge_targets._executorch_program import Decoder, to_edge, to_program
from edge_targets._executorch_weights import Codes, Stored

__all__ = ["Decoder", "lower", "quantize"]


def quantize(decoder: nn.Module, quantization: str, group_size: int, given: Mapping[str, Codes] | None = None) -> None:
    """Quantize every linear layer and the embedding in place; raises PackageError naming any that stayed in float."""
    row, group = Stored(8), Stored(4, group_size, torch.bfloat16)
    four_bits = quantization == "8da4w"
    weights.store(
        decoder, lambda name: group if four_bits and name != "head" else row, given, eight_bit_activations=True
    )
    weights.store_embedding(decoder, Stored(8, group_size))
    weights.finish(decoder, quantization)


class _Partitioner(XnnpackPartitioner):  # type: ignore[misc]
    """XNNPACK's partitioner without work that a decoder does not need: 18 CPU-seconds for four layers instead of 40.

    Of the rewrites run on each piece only that of linear layers is asked for; the others are about convolutions, images
    and channels. Operators that XNNPACK takes whole are kept by name; asking it node by node, which it wants for other
    operators, traces the program twice more. A second partitioner for quantized products before this one changed
    neither logits nor speed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.delegation_spec = DelegationSpec("XnnpackBackend", [CompileSpec("dqlinear_partitioner", b"")])

    def ops_to_not_decompose(self, exported: torch.export.ExportedProgram) -> tuple[list[Any], None]:
        kept, _ = super().ops_to_not_decompose(exported)
        return kept, None


def lower(exported: torch.export.ExportedProgram, metadata: dict[str, Any]) -> Any:
    """The program, its products XNNPACK's; raises PackageError when one stayed outside."""
    return to_program(to_edge(exported, _Partitioner(), metadata, "XNNPACK"))
