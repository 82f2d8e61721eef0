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

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge_targets._onnx_blocks import Floats, pack, quantize
from edge_targets._onnx_decoder import Decoder
from edge_targets._target import PackageError

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
    """The ModelProto, weights inside; raises PackageError for a weight that is missing or not finite.

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


class _Graph:
    """Grows node by node; a method named after a part of the model returns the name of the value it made."""

    def __init__(
        self,
        decoder: Decoder,
        storage: Storage,
        tensor: Callable[[str], Floats | None],
        rounded: Mapping[str, Rounded],
    ) -> None:
        self.decoder = decoder
        self.storage = storage
        self.tensor = tensor
        self.rounded = rounded
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.weights: dict[str, tuple[str, int, int]] = {}

    def decode(self) -> None:
        """From token ids to logits; the residual stream travels in the skip norms' second result."""
        decoder = self.decoder
        for name, cache in zip(("cos_cache", "sin_cache"), decoder.rotary_caches(), strict=True):
            self._constant(name, cache)
        blocks = list(self._blocks())
        norms_after = [*(norm for norm, _ in blocks[1:]), "model.norm"]
        residual = self._embedding()
        hidden = self._norm(blocks[0][0], residual)
        for (_, block), norm_after in zip(blocks, norms_after, strict=True):
            hidden, residual = self._skip_norm(norm_after, block(hidden), residual)
        to_the_end, of_tokens = self._constant("last", np.array([2**62])), self._constant("token_axis", np.array([1]))
        wanted = self._node("Slice", [hidden, "logits_from", to_the_end, of_tokens], "wanted")
        self._linear(
            wanted, ["model.embed_tokens" if decoder.tied else "lm_head"], "logits", self.storage.embedding_bits
        )

    def _blocks(self) -> Iterator[tuple[str, Callable[[str], str]]]:
        """Every attention and FFN that is there, with the norm before it; caches are numbered among those that attend."""
        cache = 0
        for layer, (attends, feeds_forward) in enumerate(self.decoder.layers):
            prefix = f"model.layers.{layer}"
            if attends:
                yield f"{prefix}.input_layernorm", partial(self._attention, cache, f"{prefix}.self_attn")
                cache += 1
            if feeds_forward:
                yield f"{prefix}.post_attention_layernorm", partial(self._feed_forward, f"{prefix}.mlp")

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
        packed = self._linear(hidden, projections, f"{prefix}.qkv", self.storage.linear_bits)
        past = [f"past_key_values.{cache}.key", f"past_key_values.{cache}.value"]
        present = [f"present.{cache}.key", f"present.{cache}.value"]
        attended = self._node(
            "GroupQueryAttention",
            [packed, "", "", *past, "seqlens_k", "total_sequence_length", "cos_cache", "sin_cache"],
            f"{prefix}.attended",
            *present,
            num_heads=self.decoder.heads,
            kv_num_heads=self.decoder.key_value_heads,
            do_rotary=1,
        )
        return self._linear(attended, [f"{prefix}.o_proj"], f"{prefix}.out", self.storage.linear_bits)

    def _feed_forward(self, prefix: str, hidden: str) -> str:
        projections = [f"{prefix}.gate_proj", f"{prefix}.up_proj"]
        both = self._linear(hidden, projections, f"{prefix}.both", self.storage.linear_bits)
        gate, up = f"{prefix}.gate", f"{prefix}.up"
        self._node("Split", [both], gate, up, axis=-1, num_outputs=2)
        sigmoid = self._node("Sigmoid", [gate], f"{prefix}.sigmoid")
        silu = self._node("Mul", [gate, sigmoid], f"{prefix}.silu")
        gated = self._node("Mul", [silu, up], f"{prefix}.gated")
        return self._linear(gated, [f"{prefix}.down_proj"], f"{prefix}.out", self.storage.linear_bits)

    def _norm(self, module: str, value: str) -> str:
        gain = self._constant(f"{module}.weight", self._wanted(f"{module}.weight"))
        epsilon = self.decoder.norm_epsilon
        return self._node("SimplifiedLayerNormalization", [value, gain], f"{module}.out", axis=-1, epsilon=epsilon)

    def _skip_norm(self, module: str, value: str, residual: str) -> tuple[str, str]:
        """(normalized sum, sum) of `value` and `residual`."""
        gain = self._constant(f"{module}.weight", self._wanted(f"{module}.weight"))
        normalized, total = f"{module}.out", f"{module}.residual"
        outputs = (normalized, "", "", total)
        epsilon = self.decoder.norm_epsilon
        self._node("SkipSimplifiedLayerNormalization", [value, residual, gain], *outputs, epsilon=epsilon)
        return normalized, total

    def _linear(self, value: str, modules: Sequence[str], output: str, bits: int) -> str:
        """One product with the modules' weights stacked along their outputs, and their biases where they have any."""
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
            weight_NK = np.concatenate([self._wanted(f"{module}.weight") for module in modules])
            self.weights[name] = (name, *weight_NK.shape)
            if bits == 32:
                self._constant(name, weight_NK)
            else:
                packed_NBC, scales_NB = self._in_blocks(modules, weight_NK, bits)
                self._constant(name, packed_NBC)
                self._constant(f"{name}.scales", scales_NB)
        return self.weights[name]

    def _in_blocks(self, modules: Sequence[str], weight_NK: Floats, bits: int) -> tuple[NDArray[np.uint8], Floats]:
        known = [self.rounded[module] for module in modules if module in self.rounded]
        if len(known) < len(modules):
            return quantize(weight_NK, bits, self.storage.block)
        codes_NK = np.concatenate([one.codes_NK for one in known]).astype(np.int16) + (1 << (bits - 1))
        scales_NB = np.concatenate([one.scales_NB for one in known])
        padding = scales_NB.shape[1] * self.storage.block - codes_NK.shape[1]
        padded_NK = np.pad(codes_NK, ((0, 0), (0, padding)), constant_values=1 << (bits - 1)).astype(np.uint8)
        return pack(padded_NK.reshape(*scales_NB.shape, self.storage.block), bits), scales_NB

    def _bias(self, modules: Sequence[str]) -> str:
        """The modules' biases stacked, zero for one without; an empty name where none has any."""
        biases = [self.tensor(f"{module}.bias") for module in modules]
        if all(bias is None for bias in biases):
            return ""
        outputs = [len(self._wanted(f"{module}.weight")) for module in modules]
        stacked = [np.zeros(n, np.float32) if bias is None else bias for bias, n in zip(biases, outputs, strict=True)]
        return self._constant(f"{'+'.join(modules)}.bias", np.concatenate(stacked))

    def _wanted(self, name: str) -> Floats:
        tensor = self.tensor(name)
        if tensor is None:
            raise PackageError(f"the checkpoint has no weight {name}; was it saved whole?")
        if not np.isfinite(tensor).all():
            raise PackageError(f"the checkpoint's {name} holds a number that is not finite; train or extract it again")
        return tensor

    def _constant(self, name: str, array: NDArray[Any]) -> str:
        from onnx import numpy_helper

        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def _node(self, operator: str, inputs: Sequence[str], output: str, *more_outputs: str, **attributes: Any) -> str:
        """Add one operator; returns the name of its first output."""
        from onnx import helper

        domain = _CONTRIB if operator in _CONTRIB_OPERATORS else ""
        outputs = [output, *more_outputs]
        self.nodes.append(helper.make_node(operator, inputs, outputs, name=output, domain=domain, **attributes))
        return output
