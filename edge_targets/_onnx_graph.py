"""The decoder as one ONNX graph, written operator by operator.

Exporters that trace leave the key-value cache outside the attention operator, where every token copies it, and keep the
embedding in float, a third of a small model's bytes. Here GroupQueryAttention owns the cache; query, key and value are
one product, and so are gate and up: fewer operators to start a token. A tied embedding and head share one initializer:
GatherBlockQuantized reads the [tokens, blocks, bytes] layout that MatMulNBits wants as a table of rank three, so only
its output and its scales are reshaped.

Inputs: `input_ids` int64 [1, S], `seqlens_k` int32 [1] (tokens in the cache after this run, less one),
`total_sequence_length` int32 scalar (tokens in the cache after this run), `logits_from` int64 [1] (the first of the S
positions whose logits are wanted: prefill pays the head for one), and `past_key_values.i.key|value` float32
[1, key-value heads, context length, head dimension]. Outputs: `logits` float32 [1, S - logits_from, vocabulary] and
`present.i.key|value`, to be bound to the buffers of the past ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from edge_targets._decoder_graph import DecoderGraph
from edge_targets._onnx_blocks import Floats, pack
from edge_targets._onnx_decoder import Decoder

if TYPE_CHECKING:
    from edge_targets._rounding import Rounded

_CONTRIB = "com.microsoft"
_CONTRIB_OPERATORS = {
    "GatherBlockQuantized",
    "GroupQueryAttention",
    "MatMulNBits",
    "SkipSimplifiedLayerNormalization",
}
_OPERATOR_SET = 21
_IR_VERSION = 10
_INT8_ACTIVATIONS = 4
"""MatMulNBits' accuracy level that rounds activations to int8, block by block, and multiplies integers."""


@dataclass(frozen=True)
class Storage:
    """How weights are kept: the bits of one (32 is plain float), and how many inputs share a scale."""

    linear_bits: int
    embedding_bits: int
    block: int


def build(
    decoder: Decoder,
    storage: Storage,
    tensor: Callable[[str], Floats | None],
    rounded: Mapping[str, Rounded] | None = None,
) -> Any:
    """The ModelProto, weights inside; raises PackageError for a weight that is missing.

    `tensor` reads a weight of the checkpoint by name in float32, or returns None where there is none. Modules that are
    `rounded` already keep their codes; the others' weights are rounded to nearest.
    """
    from onnx import TensorProto, helper

    graph = _Graph(decoder, storage, tensor, rounded or {})
    graph.decode()
    inputs = [
        helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, "tokens"]),
        helper.make_tensor_value_info("seqlens_k", TensorProto.INT32, [1]),
        helper.make_tensor_value_info("total_sequence_length", TensorProto.INT32, []),
        helper.make_tensor_value_info("logits_from", TensorProto.INT64, [1]),
    ]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, "wanted_tokens", decoder.vocabulary])]
    for cache in (f"{layer}.{part}" for layer in range(decoder.attending) for part in ("key", "value")):
        for values, name in ((inputs, f"past_key_values.{cache}"), (outputs, f"present.{cache}")):
            values.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, decoder.cache_shape))
    return helper.make_model(
        helper.make_graph(graph.nodes, "decoder", inputs, outputs, graph.initializers),
        opset_imports=[helper.make_opsetid("", _OPERATOR_SET), helper.make_opsetid(_CONTRIB, 1)],
        ir_version=_IR_VERSION,
        producer_name="amoeba-edge",
    )


class _Graph(DecoderGraph):
    """The decoder in ONNX Runtime's own operators."""

    domains: ClassVar[Mapping[str, str]] = dict.fromkeys(_CONTRIB_OPERATORS, _CONTRIB)

    def __init__(
        self,
        decoder: Decoder,
        storage: Storage,
        tensor: Callable[[str], Floats | None],
        rounded: Mapping[str, Rounded],
    ) -> None:
        super().__init__(decoder, tensor, rounded)
        self.storage = storage
        self.weights: dict[str, tuple[str, int, int]] = {}

    def _prepare(self) -> None:
        for name, cache in zip(("cos_cache", "sin_cache"), self.decoder.rotary_caches(), strict=True):
            self._constant(name, cache)

    def _head(self, hidden: str, module: str) -> None:
        to_the_end, of_tokens = self._constant("last", np.array([2**62])), self._constant("token_axis", np.array([1]))
        wanted = self._node("Slice", [hidden, "logits_from", to_the_end, of_tokens], "wanted")
        self._product(wanted, [module], "logits", self.storage.embedding_bits)

    def _embedding(self) -> str:
        table, _, _ = self._weight(["model.embed_tokens"], self.storage.embedding_bits)
        if self.storage.embedding_bits == 32:
            return self._node("Gather", [table, "input_ids"], "embedded")
        hidden_size, block = self.decoder.hidden_size, self.storage.block
        blocks = -(-hidden_size // block)
        scales_shape = self._constant("scales_shape", np.array([self.decoder.vocabulary, blocks, 1]))
        scales = self._node("Reshape", [f"{table}.scales", scales_shape], f"{table}.scales_of_rank_three")
        in_blocks = self._node(
            "GatherBlockQuantized",
            [table, "input_ids", scales],
            "embedded_in_blocks",
            bits=self.storage.embedding_bits,
            block_size=block,
            gather_axis=0,
            quantize_axis=2,
        )
        padded_shape = self._constant("padded_shape", np.array([1, -1, blocks * block]))
        padded = self._node("Reshape", [in_blocks, padded_shape], "embedded_and_padded")
        if hidden_size % block == 0:
            return padded
        bounds = {"hidden_from": 0, "hidden_to": hidden_size, "hidden_axis": 2}
        names = [self._constant(name, np.array([bound])) for name, bound in bounds.items()]
        return self._node("Slice", [padded, *names], "embedded")

    def _attention(self, cache: int, prefix: str, hidden: str) -> str:
        projections = [f"{prefix}.{part}_proj" for part in "qkv"]
        packed = self._linear(hidden, projections, f"{prefix}.qkv")
        rows = self._normalized_heads(prefix, packed) if self.decoder.qk_norm else (packed, "", "")
        past = [f"past_key_values.{cache}.key", f"past_key_values.{cache}.value"]
        present = [f"present.{cache}.key", f"present.{cache}.value"]
        attended = self._node(
            "GroupQueryAttention",
            [*rows, *past, "seqlens_k", "total_sequence_length", "cos_cache", "sin_cache"],
            f"{prefix}.attended",
            *present,
            num_heads=self.decoder.heads,
            kv_num_heads=self.decoder.key_value_heads,
            do_rotary=1,
        )
        return self._linear(attended, [f"{prefix}.o_proj"], f"{prefix}.out")

    def _normalized_heads(self, prefix: str, packed: str) -> tuple[str, str, str]:
        """Query, key and value apart; every head of the first two is normalized by itself."""
        dim, heads, kv_heads = self.decoder.head_dim, self.decoder.heads, self.decoder.key_value_heads
        sizes = self._constant(f"{prefix}.sizes", np.array([heads * dim, kv_heads * dim, kv_heads * dim]))
        query, key, value = (f"{prefix}.{part}" for part in ("query", "key", "value"))
        self._node("Split", [packed, sizes], query, key, value, axis=2)
        normalized = []
        for part, whole, count in (("q", query, heads), ("k", key, kv_heads)):
            by_head = self._constant(f"{whole}.by_head", np.array([1, -1, count, dim]))
            back = self._constant(f"{whole}.back", np.array([1, -1, count * dim]))
            apart = self._norm(f"{prefix}.{part}_norm", self._node("Reshape", [whole, by_head], f"{whole}.heads"))
            normalized.append(self._node("Reshape", [apart, back], f"{whole}.normalized"))
        return normalized[0], normalized[1], value

    def _norm(self, module: str, value: str) -> str:
        gain = self._constant(f"{module}.weight", self._wanted(f"{module}.weight"))
        epsilon = self.decoder.norm_epsilon
        return self._node("SimplifiedLayerNormalization", [value, gain], f"{module}.out", axis=-1, epsilon=epsilon)

    def _skip_norm(self, module: str, value: str, residual: str) -> tuple[str, str]:
        gain = self._constant(f"{module}.weight", self._wanted(f"{module}.weight"))
        normalized, total = f"{module}.out", f"{module}.residual"
        outputs = (normalized, "", "", total)
        epsilon = self.decoder.norm_epsilon
        self._node("SkipSimplifiedLayerNormalization", [value, residual, gain], *outputs, epsilon=epsilon)
        return normalized, total

    def _linear(self, value: str, modules: Sequence[str], output: str) -> str:
        return self._product(value, modules, output, self.storage.linear_bits)

    def _product(self, value: str, modules: Sequence[str], output: str, bits: int) -> str:
        weight, outputs, inputs = self._weight(modules, bits)
        bias = self._bias(modules)
        if bits == 32:
            transposed = self._node("Transpose", [weight], f"{output}.weight", perm=[1, 0])
            product = self._node("MatMul", [value, transposed], f"{output}.product" if bias else output)
            return self._node("Add", [product, bias], output) if bias else product
        return self._node(
            "MatMulNBits",
            [value, weight, f"{weight}.scales", "", "", bias] if bias else [value, weight, f"{weight}.scales"],
            output,
            N=outputs,
            K=inputs,
            bits=bits,
            block_size=self.storage.block,
            accuracy_level=_INT8_ACTIVATIONS,
        )

    def _weight(self, modules: Sequence[str], bits: int) -> tuple[str, int, int]:
        """The modules' weights stacked, as (initializer, outputs, inputs); one already there is shared."""
        name = "+".join(modules)
        if name not in self.weights:
            weight_NK = self._stacked(modules)
            self.weights[name] = (name, *weight_NK.shape)
            if bits == 32:
                self._constant(name, weight_NK)
            else:
                codes_NK, scales_NB = self._codes(modules, bits, self.storage.block)
                self._constant(name, pack(codes_NK, bits, self.storage.block))
                self._constant(f"{name}.scales", scales_NB)
        return self.weights[name]

    def _bias(self, modules: Sequence[str]) -> str:
        """The modules' biases stacked; an empty name where none has any."""
        bias = self._stacked_bias(modules)
        return "" if bias is None else self._constant(f"{'+'.join(modules)}.bias", bias)
