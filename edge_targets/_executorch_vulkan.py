"""Vulkan: products, attention and norms on a phone's graphics processor; embeddings are looked up on the CPU.

Vulkan multiplies 4-bit groups, with activations in 8 bits where the processor has integer dot products, and 8-bit rows
with float activations. Everything else quantized is accepted too, but turned into float weights anew at every call: that
is refused here. Of embeddings it would do so with the whole table, so these stay outside.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
import torch.ao.quantization.fx._decomposed  # importing it registers quantized_decomposed.dequantize_per_channel
from executorch.backends.vulkan.partitioner.vulkan_partitioner import VulkanPartitioner
from executorch.backends.vulkan.serialization import vulkan_graph_serialize as serialized
from executorch.exir.dialects._ops import ops
from torch import Tensor, nn

from edge_targets import _executorch_weights as weights
from edge_targets._executorch_program import Decoder, delegated, to_edge, to_program
from edge_targets._executorch_weights import Codes, Stored
from edge_targets._target import PackageError

__all__ = ["Decoder", "lower", "quantize"]

PRODUCTS = frozenset(
    {"et_vk.linear_dq8ca_q4gsw.default", "et_vk.linear_q4gsw.default", "aten._weight_int8pack_mm.default"}
)
_FLOAT_WEIGHTS = ("dequantize", "aten.linear", "aten.mm", "aten.addmm", "aten.bmm")


class _Rows(nn.Module):
    """A linear layer with 8-bit weights and a scale a row, in the one form that Vulkan multiplies as it is stored."""

    def __init__(self, linear: nn.Linear, codes: Codes) -> None:
        super().__init__()
        self.codes_NK = nn.Parameter(codes.codes_NK, requires_grad=False)
        self.scales_N = nn.Parameter(codes.scales_NB[:, 0].contiguous(), requires_grad=False)
        self.zeros_N = nn.Parameter(torch.zeros(len(codes.codes_NK), dtype=torch.int64), requires_grad=False)
        self.bias = linear.bias

    def forward(self, x_1SK: Tensor) -> Tensor:
        weight_NK = torch.ops.quantized_decomposed.dequantize_per_channel(
            self.codes_NK, self.scales_N, self.zeros_N, 0, -128, 127, torch.int8
        )
        return nn.functional.linear(x_1SK, weight_NK, self.bias)


def quantize(decoder: nn.Module, quantization: str, group_size: int, given: Mapping[str, Codes] | None = None) -> None:
    """Quantize every linear layer and the embedding in place; raises PackageError naming any that stayed in float."""
    row, group = Stored(8), Stored(4, group_size)
    for name, module in list(decoder.named_modules()):
        if isinstance(module, nn.Linear) and (quantization == "8w" or name == "head"):
            decoder.set_submodule(name, _Rows(module, weights.nearest(module.weight, row)))
    weights.store(decoder, lambda name: group, given, eight_bit_activations=True)
    weights.store_embedding(decoder, Stored(8, group_size))
    weights.finish(decoder, quantization)


def lower(exported: torch.export.ExportedProgram, metadata: dict[str, Any]) -> Any:
    """The program, everything but the embedding Vulkan's; raises PackageError when a product is not on stored codes."""
    partitioner = VulkanPartitioner(
        {"require_dynamic_shapes": True},
        operator_blocklist=[ops.edge.aten.embedding.default, ops.edge.torchao.dequantize_affine.default],
    )
    edge = to_edge(exported, partitioner, metadata, "Vulkan")
    called = operators(edge)
    slow = [name for name in called if any(part in name for part in _FLOAT_WEIGHTS)]
    if slow or not PRODUCTS & called.keys():
        count = sum(called[name] for name in slow)
        raise PackageError(f"Vulkan would compute {count} times on weights in float: {', '.join(slow) or 'no product'}")
    return to_program(edge)


def operators(edge: Any) -> Counter[str]:
    """Names of Vulkan's operators in a lowered program, each with how often it is there."""
    counted: Counter[str] = Counter()
    for piece in delegated(edge):
        header = serialized.VulkanDelegateHeader.from_bytes(piece[: serialized.VulkanDelegateHeader.EXPECTED_LENGTH])
        graph = piece[header.flatbuffer_offset : header.flatbuffer_offset + header.flatbuffer_size]
        counted.update(call.name for call in serialized.flatbuffer_to_vk_graph(graph).chain)
    return counted
