"""The decoder in standard ONNX operators, for TensorRT's parser; ONNX Runtime runs the same file.

What is multiplied is float16 and the residual stream, the norms, the rotary embedding and the softmax are float32: the
types are in the graph, TensorRT is told to keep to them (a strongly typed network), and so the answers checked here are
those of the engine. The key-value cache is outside, as TensorRT 10.3 has no operator that owns one. Its rows are laid out
token by token, and a run gives out the rows of its own tokens only: the runner writes them behind the others, and nothing
that is old is written again. A buffer as long as the context, with the rest masked, would have fixed shapes, but
every token would read all of it.

A query group's heads are stacked along the tokens, so that keys and values are multiplied as they are, once a
key-value head, and never repeated.

Inputs: `input_ids` int64 [1, S], `positions` int64 [S] (where each of the S tokens is in the text), `logits_at` int64 [W]
(those of the S whose logits are wanted), and `past_key_values.i.key|value` float16 [1, P, key-value heads, head
dimension], where P may be 0. Outputs: `logits` float32 [W, vocabulary] and `present.i.key|value` float16 [1, S, key-value
heads, head dimension].

Legend of names: S tokens read, P tokens in the cache, T = P + S, G query heads a key-value head, D head dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge_targets._decoder_graph import DecoderGraph
from edge_targets._onnx_blocks import Floats
from edge_targets._onnx_decoder import Decoder
from edge_targets._target import PackageError

if TYPE_CHECKING:
    from edge_targets._rounding import Rounded

_LARGEST_HALF = float(np.finfo(np.float16).max)
_FAR_BELOW = -1e30
"""Added to the score of a token that is not there yet; a number, since an infinity less an infinity is none."""


@dataclass(frozen=True)
class Storage:
    """How the matrices of layers are kept; embedding and head are float16."""

    bits: int
    """16 is float16, 4 are codes with a float16 scale a block."""
    block: int
    """Inputs that share a scale; 1 for none."""
    operator_set: int
    """The first that holds what is used: 18 splits in equal parts, 21 has 4-bit codes and blocks of them."""
    ir_version: int


def build(
    decoder: Decoder,
    storage: Storage,
    tensor: Callable[[str], Floats | None],
    rounded: Mapping[str, Rounded] | None = None,
) -> Any:
    """The ModelProto, weights inside; raises PackageError for a weight that is missing or beyond float16, and for a width
    that is no multiple of the block."""
    from onnx import TensorProto, helper

    graph = _Graph(decoder, storage, tensor, rounded or {})
    graph.decode()
    inputs = [
        helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, "tokens"]),
        helper.make_tensor_value_info("positions", TensorProto.INT64, ["tokens"]),
        helper.make_tensor_value_info("logits_at", TensorProto.INT64, ["wanted_tokens"]),
    ]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["wanted_tokens", decoder.vocabulary])]
    row = [decoder.key_value_heads, decoder.head_dim]
    for cache in (f"{layer}.{part}" for layer in range(decoder.attending) for part in ("key", "value")):
        past, present = f"past_key_values.{cache}", f"present.{cache}"
        inputs.append(helper.make_tensor_value_info(past, TensorProto.FLOAT16, [1, "past_tokens", *row]))
        outputs.append(helper.make_tensor_value_info(present, TensorProto.FLOAT16, [1, "tokens", *row]))
    return helper.make_model(
        helper.make_graph(graph.nodes, "decoder", inputs, outputs, graph.initializers),
        opset_imports=[helper.make_opsetid("", storage.operator_set)],
        ir_version=storage.ir_version,
        producer_name="amoeba-edge",
    )


class _Graph(DecoderGraph):
    """The decoder in operators that every runtime has."""

    def __init__(
        self,
        decoder: Decoder,
        storage: Storage,
        tensor: Callable[[str], Floats | None],
        rounded: Mapping[str, Rounded],
    ) -> None:
        super().__init__(decoder, tensor, rounded)
        self.storage = storage
        self.shared: set[str] = set()

    def _prepare(self) -> None:
        """Cosines, sines and the mask of this run's tokens."""
        for name, cache in zip(("cosines", "sines"), self.decoder.rotary_caches(), strict=True):
            table = self._constant(f"{name}_of_all", cache[:, None, :])
            self._node("Gather", [table, "positions"], name, axis=0)
        past = self._size("past_key_values.0.key", 1, "past_tokens")
        tokens = self._size("positions", 0, "read_tokens")
        total = self._node("Add", [past, tokens], "total_tokens")
        places_T = self._node("Range", [self._integers(0, rank=0), total, self._integers(1, rank=0)], "cached_places")
        group = self.decoder.heads // self.decoder.key_value_heads
        places_GS = self._node("Concat", ["positions"] * group, "places_of_a_group", axis=0)
        places_GS1 = self._node("Unsqueeze", [places_GS, self._integers(1)], "places")
        seen = self._node("LessOrEqual", [places_T, places_GS1], "seen")
        self._node("Where", [seen, self._number("nothing", 0.0), self._number("far_below", _FAR_BELOW)], "mask")

    def _size(self, value: str, axis: int, output: str) -> str:
        """One of a value's sizes, a scalar; not by Shape's own bounds, which older parsers may pass over."""
        shape = self._node("Shape", [value], f"{output}.shape")
        return self._node("Gather", [shape, self._integers(axis, rank=0)], output, axis=0)

    def _embedding(self) -> str:
        table = self._half("model.embed_tokens.weight", self._wanted("model.embed_tokens.weight"))
        return self._widen(self._node("Gather", [table, "input_ids"], "embedded", axis=0))

    def _attention(self, cache: int, prefix: str, hidden: str) -> str:
        decoder = self.decoder
        heads, kv_heads, dim = decoder.heads, decoder.key_value_heads, decoder.head_dim
        group = heads // kv_heads
        packed = self._linear(hidden, [f"{prefix}.{part}_proj" for part in "qkv"], f"{prefix}.qkv")
        by_head = self._reshape(packed, f"{prefix}.by_head", 1, -1, heads + 2 * kv_heads, dim)
        turned, value = f"{prefix}.query_and_key", f"{prefix}.value"
        self._node("Split", [by_head, self._integers(heads + kv_heads, kv_heads)], turned, value, axis=2)
        if decoder.qk_norm:
            turned = self._normalized_heads(prefix, turned)
        query, key = f"{prefix}.turned_query", f"{prefix}.turned_key"
        self._node("Split", [self._rotate(prefix, turned), self._integers(heads, kv_heads)], query, key, axis=2)
        scale = self._number("query_scale", dim**-0.5)
        query, key = self._narrow(self._node("Mul", [query, scale], f"{prefix}.query")), self._narrow(key)
        for part, rows in (("key", key), ("value", value)):
            self._node("Identity", [rows], f"present.{cache}.{part}")

        keys, values = (
            self._node("Concat", [f"past_key_values.{cache}.{part}", rows], f"{prefix}.all_{part}s", axis=1)
            for part, rows in (("key", key), ("value", value))
        )
        keys_DT = self._node("Transpose", [keys], f"{prefix}.keys_DT", perm=[0, 2, 3, 1])
        values_TD = self._node("Transpose", [values], f"{prefix}.values_TD", perm=[0, 2, 1, 3])
        grouped = self._reshape(query, f"{prefix}.by_group", 1, -1, kv_heads, group, dim)
        moved = self._node("Transpose", [grouped], f"{prefix}.group_first", perm=[0, 2, 3, 1, 4])
        query_GSD = self._reshape(moved, f"{prefix}.query_GSD", 1, kv_heads, -1, dim)

        products = self._node("MatMul", [query_GSD, keys_DT], f"{prefix}.products")
        scores = self._node("Add", [self._widen(products), "mask"], f"{prefix}.scores")
        shares = self._narrow(self._node("Softmax", [scores], f"{prefix}.shares", axis=-1))
        mixed_GSD = self._node("MatMul", [shares, values_TD], f"{prefix}.mixed")
        ungrouped = self._reshape(mixed_GSD, f"{prefix}.mixed_by_group", 1, kv_heads, group, -1, dim)
        back = self._node("Transpose", [ungrouped], f"{prefix}.token_first", perm=[0, 3, 1, 2, 4])
        attended = self._reshape(back, f"{prefix}.attended", 1, -1, heads * dim)
        return self._linear(attended, [f"{prefix}.o_proj"], f"{prefix}.out")

    def _rotate(self, prefix: str, value: str) -> str:
        """Rotary positions on query and key heads alike, in float32."""
        low, high = f"{prefix}.low", f"{prefix}.high"
        self._node("Split", [self._widen(value)], low, high, axis=-1, num_outputs=2)
        products = {
            (half, turn): self._node("Mul", [half, turn], f"{half}_{turn}")
            for half in (low, high)
            for turn in ("cosines", "sines")
        }
        first = self._node("Sub", [products[low, "cosines"], products[high, "sines"]], f"{low}.turned")
        second = self._node("Add", [products[high, "cosines"], products[low, "sines"]], f"{high}.turned")
        return self._node("Concat", [first, second], f"{prefix}.turned", axis=-1)

    def _normalized_heads(self, prefix: str, value: str) -> str:
        """Every query and key head normalized by itself, with its part's gain."""
        counts = (("q", self.decoder.heads), ("k", self.decoder.key_value_heads))
        gains = [np.tile(self._wanted(f"{prefix}.{part}_norm.weight"), (1, 1, count, 1)) for part, count in counts]
        return self._normalized(f"{prefix}.qk_norm", self._widen(value), np.concatenate(gains, axis=2))

    def _norm(self, module: str, value: str) -> str:
        return self._normalized(module, value, self._wanted(f"{module}.weight"))

    def _normalized(self, module: str, value: str, weight: Floats) -> str:
        """Root mean square norm of float32, in float16."""
        squares = self._node("Mul", [value, value], f"{module}.squares")
        mean = self._node("ReduceMean", [squares, self._integers(-1)], f"{module}.mean", keepdims=1)
        shifted = self._node("Add", [mean, self._number("epsilon", self.decoder.norm_epsilon)], f"{module}.shifted")
        root = self._node("Sqrt", [shifted], f"{module}.root")
        scaled = self._node("Div", [value, root], f"{module}.scaled")
        gain = self._constant(f"{module}.weight", weight)
        return self._narrow(self._node("Mul", [scaled, gain], f"{module}.out"))

    def _skip_norm(self, module: str, value: str, residual: str) -> tuple[str, str]:
        total = self._node("Add", [self._widen(value), residual], f"{module}.residual")
        return self._norm(module, total), total

    def _linear(self, value: str, modules: Sequence[str], output: str) -> str:
        name, bias = "+".join(modules), self._stacked_bias(modules)
        weight = self._matrix(name, modules)
        product = self._node("MatMul", [value, weight], output if bias is None else f"{output}.product")
        if bias is None:
            return product
        return self._node("Add", [product, self._half(f"{name}.bias", bias)], output)

    def _matrix(self, name: str, modules: Sequence[str]) -> str:
        """The value that holds a layer's weights, [inputs, outputs], in float16."""
        block = self.storage.block
        if self.storage.bits == 16:
            return self._half(name, self._stacked(modules).T)
        inputs = self._wanted(f"{modules[0]}.weight").shape[1]
        if inputs % block:
            nearest = max(block, round(inputs / block) * block)
            raise PackageError(
                f"{name} takes {inputs} inputs; codes of {self.storage.bits} bits go in blocks of {block}: choose a "
                f"multiple of it, the nearest is {nearest}, or fp16"
            )
        codes_NK, scales_NB = self._codes(modules, self.storage.bits, block)
        least = float(scales_NB.astype(np.float16).min())
        if not least > 0:
            raise PackageError(f"{name} has a scale of {least:g} in float16; TensorRT takes positive ones")
        codes = self._packed(f"{name}.codes", codes_NK.T)
        scales = self._half(f"{name}.scales", scales_NB.T)
        return self._node("DequantizeLinear", [codes, scales], name, axis=0, block_size=block)

    def _packed(self, name: str, codes_KN: NDArray[np.int8]) -> str:
        """4-bit codes, the first of two in a byte's low half."""
        from onnx import TensorProto

        flat = np.ascontiguousarray(codes_KN).reshape(-1).view(np.uint8) & 15
        packed = flat[0::2] | flat[1::2] << 4
        stored = TensorProto(name=name, data_type=TensorProto.INT4, dims=codes_KN.shape, raw_data=packed.tobytes())
        self.initializers.append(stored)
        return name

    def _half(self, name: str, array: Floats) -> str:
        """A float16 constant, shared by who asks for it again."""
        if name in self.shared:
            return name
        self.shared.add(name)
        largest = float(np.abs(array).max())
        if largest > _LARGEST_HALF:
            raise PackageError(
                f"{name} holds {largest:g}; float16 ends at {_LARGEST_HALF:g}, so this model needs another target"
            )
        return self._constant(name, array.astype(np.float16))

    def _head(self, hidden: str, module: str) -> None:
        table = self._half(f"{module}.weight", self._wanted(f"{module}.weight"))
        wanted = self._node("Gather", [hidden, "logits_at"], "wanted", axis=1)
        rows = self._reshape(wanted, "wanted_rows", -1, self.decoder.hidden_size)
        products = self._node("Gemm", [rows, table], "half_logits", transB=1)
        self._node("Cast", [products], "logits", to=_types()["float32"])

    def _widen(self, value: str) -> str:
        return self._node("Cast", [value], f"{value}.float32", to=_types()["float32"])

    def _narrow(self, value: str) -> str:
        return self._node("Cast", [value], f"{value}.float16", to=_types()["float16"])

    def _reshape(self, value: str, output: str, *shape: int) -> str:
        return self._node("Reshape", [value, self._integers(*shape)], output)

    def _integers(self, *values: int, rank: int = 1) -> str:
        """A constant of shapes, axes and places."""
        name = f"integers{'' if rank else '_of_rank_0'}_{'_'.join(map(str, values))}"
        if name not in self.shared:
            self.shared.add(name)
            self._constant(name, np.array(values if rank else values[0], np.int64))
        return name

    def _number(self, name: str, value: float) -> str:
        """A float32 constant."""
        if name not in self.shared:
            self.shared.add(name)
            self._constant(name, np.array(value, np.float32))
        return name


def _types() -> dict[str, int]:
    from onnx import TensorProto

    return {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}
