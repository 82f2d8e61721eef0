"""Core ML: the whole decoder but its caches on an iPhone's Neural Engine, graphics processor and CPU, as iOS decides.

Core ML can keep caches as states of its own, but ExecuTorch's released iOS libraries do not bind states: such a program
ends with `must be an MLState` (pytorch/executorch issue 21855). Caches as inputs and outputs would be copied whole for
each token. So the caches stay the program's: Core ML reads what was cached before a call, answers logits and the call's
own keys and values, and `llama.update_cache_with_indices` writes these on the CPU.

Legend: as in `_executorch_program`; G query heads that share a key-value head, T = G x S.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import coremltools
import torch
from executorch.backends.apple.coreml import executorchcoreml
from executorch.backends.apple.coreml.compiler import CoreMLBackend
from executorch.backends.apple.coreml.partition import CoreMLPartitioner
from torch import Tensor, nn
from torch.utils._sympy.value_ranges import ValueRanges

from edge_targets import _executorch_program as program
from edge_targets import _executorch_weights as weights
from edge_targets._executorch_program import delegated, to_edge, to_program
from edge_targets._executorch_weights import Codes, Stored
from edge_targets._target import PackageError

__all__ = ["Decoder", "lower", "quantize"]

_HIDDEN = -30000.0
"""The score of what must not be seen, or added to it; half precision holds it."""
_LEAST = 2.0**-10
"""Added to what a norm divides by, which may be nothing."""


class _Norm(nn.Module):
    """Root mean square norm (Zhang and Sennrich, 2019) of a vector that was first divided by its own largest number.

    Core ML computes in float16, where the square of anything over 255 is infinite; residual streams have thousands.
    """

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight = norm.weight
        self.root_epsilon = norm.variance_epsilon**0.5

    def forward(self, x: Tensor) -> Tensor:
        largest = x.abs().amax(-1, keepdim=True) + _LEAST
        x = x / largest
        floor = self.root_epsilon / largest
        normed: Tensor = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + floor * floor) * self.weight
        return normed


class _Layer(program.Layer):
    cache_dtype: ClassVar[torch.dtype] = torch.float16
    """What Core ML computes in: half the bytes to read a token, and nothing to convert."""

    def __init__(self, layer: Any, config: Any, context_length: int) -> None:
        super().__init__(layer, config, context_length)
        self.attention_norm, self.mlp_norm = _Norm(self.attention_norm), _Norm(self.mlp_norm)
        if self.attends and self.q_norm is not None:
            self.q_norm, self.k_norm = _Norm(self.q_norm), _Norm(self.k_norm)

    def attend(
        self, hidden_1SH: Tensor, cos_S1D: Tensor, sin_S1D: Tensor, past_C: Tensor, causal_SS: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The hidden states after attention, and the keys and values [1, S, K, D] that it adds."""
        length = hidden_1SH.shape[1]
        q_1SND, k_1SKD, v_1SKD = self.project(self.attention_norm(hidden_1SH), cos_S1D, sin_S1D)
        heads = k_1SKD.shape[2]
        group = q_1SND.shape[2] // heads
        # Scaled before the products, whose sums float16 might not hold.
        q_1SKGD = (q_1SND * self.head_dim**-0.5).view(1, length, heads, group, self.head_dim)
        q_1KTD = q_1SKGD.permute(0, 2, 3, 1, 4).reshape(1, heads, group * length, self.head_dim)
        cached_1KTC = q_1KTD @ self.keys_1CKD.to(q_1KTD.dtype).permute(0, 2, 3, 1)
        cached_1KTC = torch.where(past_C, cached_1KTC, _HIDDEN)
        new_1KTS = q_1KTD @ k_1SKD.permute(0, 2, 3, 1) + causal_SS.repeat(group, 1)
        seen_1KTc = torch.softmax(torch.cat((cached_1KTC, new_1KTS), -1), -1)
        context = self.keys_1CKD.shape[1]
        # A cache starts as whatever was in memory, and nothing times no number is no number.
        values_1KCD = torch.where(past_C[:, None], self.values_1CKD.to(v_1SKD.dtype).transpose(1, 2), 0.0)
        mixed_1KTD = seen_1KTc[..., :context] @ values_1KCD
        mixed_1KTD = mixed_1KTD + seen_1KTc[..., context:] @ v_1SKD.transpose(1, 2)
        mixed_1KGSD = mixed_1KTD.reshape(1, heads, group, length, self.head_dim)
        out_1SH = self.o(mixed_1KGSD.permute(0, 3, 1, 2, 4).reshape(1, length, -1))
        return hidden_1SH + out_1SH, k_1SKD.half(), v_1SKD.half()


class Decoder(program.Decoder):
    """The same decoder with attention in plain products."""

    layer_type: ClassVar[type[program.Layer]] = _Layer
    index_C: Tensor

    def __init__(self, model: Any, context_length: int) -> None:
        super().__init__(model, context_length)
        self.norm = _Norm(self.norm)
        self.register_buffer("index_C", torch.arange(context_length))

    def forward(self, tokens_1S: Tensor, position_1: Tensor) -> Tensor:
        length = tokens_1S.shape[1]
        index_S = self.index_C[:length]
        positions_S = position_1 + index_S
        cos_S1D, sin_S1D = self.cos_C1D[positions_S], self.sin_C1D[positions_S]
        past_C = self.index_C < position_1
        causal_SS = torch.where(index_S[None] <= index_S[:, None], 0.0, _HIDDEN)
        hidden_1SH = self.embedding(tokens_1S)
        written, layers = [], cast(Sequence[_Layer], self.layers)
        for layer in layers:
            if layer.attends:
                hidden_1SH, k_1SKD, v_1SKD = layer.attend(hidden_1SH, cos_S1D, sin_S1D, past_C, causal_SS)
                written.append((layer, k_1SKD, v_1SKD))
            if layer.mlp is not None:
                hidden_1SH = hidden_1SH + layer.mlp(layer.mlp_norm(hidden_1SH))
        logits_1SV: Tensor = self.head(self.norm(hidden_1SH))
        # Where to write, without naming a length: what is outside of Core ML shares nothing with what is inside.
        rows_1S = torch.full_like(tokens_1S, 1).cumsum(1) + (position_1 - 1)
        for layer, k_1SKD, v_1SKD in written:
            torch.ops.llama.update_cache_with_indices(k_1SKD, layer.keys_1CKD, 0, rows_1S)
            torch.ops.llama.update_cache_with_indices(v_1SKD, layer.values_1CKD, 0, rows_1S)
        return logits_1SV


def quantize(decoder: nn.Module, quantization: str, group_size: int, given: Mapping[str, Codes] | None = None) -> None:
    """Quantize every linear layer and the embedding in place; raises PackageError naming any that stayed in float."""
    row, group = Stored(8, scale_dtype=torch.float16), Stored(4, group_size, torch.float16)
    weights.store(
        decoder,
        lambda name: group if quantization == "4w" and name != "head" else row,
        given,
        eight_bit_activations=False,
    )
    # With a scale a row a tied head and embedding are the same constant, which is stored once.
    weights.store_embedding(decoder, row)
    weights.finish(decoder, quantization)


class _Partitioner(CoreMLPartitioner):  # type: ignore[misc]
    """Core ML's partitioner with one piece for all that Core ML takes.

    As it comes it makes several, which hand each other lengths as numbers; Core ML takes tensors only. Nothing that is
    left outside is read by what is inside: it only writes the caches, at the end.
    """

    def partition(self, exported: torch.export.ExportedProgram) -> Any:
        found = super().partition(exported)
        whole = found.tagged_exported_program
        for node in whole.graph.nodes:
            if "delegation_tag" in node.meta:
                node.meta["delegation_tag"] = "decoder"
        for node in reversed(whole.graph.nodes):
            value = node.meta.get("val")
            indices = isinstance(value, Tensor) and value.dtype == torch.int64
            if indices and node.users and all("delegation_tag" not in user.meta for user in node.users):
                node.meta.pop("delegation_tag", None)
        found.partition_tags = {"decoder": self.delegation_spec}
        for symbol, known in whole.range_constraints.items():
            # The exporter takes 1 for a special case and leaves it out; Core ML would refuse to decode.
            whole.range_constraints[symbol] = ValueRanges(1, known.upper) if known.lower == 2 else known
        return found


def lower(exported: torch.export.ExportedProgram, metadata: dict[str, Any]) -> Any:
    """The program, everything but the writing of caches Core ML's; raises PackageError for what was not lowered so."""
    specs = CoreMLBackend.generate_compile_specs(
        compute_precision=coremltools.precision.FLOAT16,
        compute_unit=coremltools.ComputeUnit.ALL,
        minimum_deployment_target=coremltools.target.iOS18,
    )
    partitioner = _Partitioner(compile_specs=specs, take_over_mutable_buffer=False)
    edge = to_edge(exported, partitioner, metadata, "Core ML")
    pieces = delegated(edge)
    if len(pieces) != 1:
        raise PackageError(f"Core ML was handed {len(pieces)} pieces of the decoder, wanted 1")
    _check(specification(pieces[0]))
    return to_program(edge)


def specification(piece: bytes) -> Any:
    """Core ML's own description of a lowered piece."""
    with tempfile.TemporaryDirectory() as folder:
        if not executorchcoreml.unflatten_directory_contents(piece, folder):
            raise PackageError("ExecuTorch cannot read what it lowered to Core ML")
        (model,) = Path(folder).rglob("*.mlmodel")
        return coremltools.utils.load_spec(str(model))


def operations(spec: Any) -> list[Any]:
    """Every operation of a described program."""
    blocks = [
        block for function in spec.mlProgram.functions.values() for block in function.block_specializations.values()
    ]
    return [operation for block in blocks for operation in block.operations]


def _check(spec: Any) -> None:
    """Raise PackageError for states, for a length that cannot be 1, and for weights that are kept in float."""
    if spec.description.state:
        raise PackageError(f"Core ML would keep {len(spec.description.state)} states, which ExecuTorch does not bind")
    tokens = spec.description.input[0]
    shortest = tokens.type.multiArrayType.shapeRange.sizeRanges[1].lowerBound
    if shortest != 1:
        raise PackageError(f"Core ML would take {tokens.name} of {shortest} positions and more, wanted 1 and more")
    kinds = {output.name: operation.type for operation in operations(spec) for output in operation.outputs}
    for operation in operations(spec):
        if operation.type == "linear":
            made_by = kinds[operation.inputs["weight"].arguments[0].name]
            if not made_by.startswith("constexpr"):
                raise PackageError(
                    f"Core ML would multiply with float weights ({made_by}) in {operation.outputs[0].name}"
                )
