"""The decoder as an ONNX graph, operator by operator: what every dialect of it shares.

What a decoder does is said here: the order of the layers, which of them attend or feed forward, how the residual stream
runs between them. How an operator is expressed is a dialect's: ONNX Runtime's own operators (`_onnx_graph`), or the
standard ones that TensorRT builds an engine from (`_tensorrt_graph`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edge_targets._onnx_blocks import Floats, nearest
from edge_targets._onnx_decoder import Decoder
from edge_targets._target import PackageError

if TYPE_CHECKING:
    from edge_targets._rounding import Rounded


class DecoderGraph(ABC):
    """Grows node by node; a method named after a part of the model returns the name of the value it made.

    `tensor` reads a weight of the checkpoint by name in float32, or returns None where there is none; modules that are
    `rounded` already keep their codes.
    """

    domains: ClassVar[Mapping[str, str]] = {}
    """Operators that are not ONNX's own, and whose they are."""

    def __init__(
        self, decoder: Decoder, tensor: Callable[[str], Floats | None], rounded: Mapping[str, Rounded]
    ) -> None:
        self.decoder = decoder
        self.tensor = tensor
        self.rounded = rounded
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []

    def decode(self) -> None:
        """From token ids to logits; the residual stream travels in the skip norms' second result."""
        self._prepare()
        blocks = list(self._blocks())
        norms_after = [*(norm for norm, _ in blocks[1:]), "model.norm"]
        residual = self._embedding()
        hidden = self._norm(blocks[0][0], residual)
        for (_, block), norm_after in zip(blocks, norms_after, strict=True):
            hidden, residual = self._skip_norm(norm_after, block(hidden), residual)
        self._head(hidden, "model.embed_tokens" if self.decoder.tied else "lm_head")

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

    def _feed_forward(self, prefix: str, hidden: str) -> str:
        both = self._linear(hidden, [f"{prefix}.gate_proj", f"{prefix}.up_proj"], f"{prefix}.both")
        gate, up = f"{prefix}.gate", f"{prefix}.up"
        self._node("Split", [both], gate, up, axis=-1, num_outputs=2)
        sigmoid = self._node("Sigmoid", [gate], f"{prefix}.sigmoid")
        silu = self._node("Mul", [gate, sigmoid], f"{prefix}.silu")
        gated = self._node("Mul", [silu, up], f"{prefix}.gated")
        return self._linear(gated, [f"{prefix}.down_proj"], f"{prefix}.out")

    @abstractmethod
    def _prepare(self) -> None:
        """What all layers share."""

    @abstractmethod
    def _embedding(self) -> str: ...

    @abstractmethod
    def _attention(self, cache: int, prefix: str, hidden: str) -> str: ...

    @abstractmethod
    def _norm(self, module: str, value: str) -> str: ...

    @abstractmethod
    def _skip_norm(self, module: str, value: str, residual: str) -> tuple[str, str]:
        """(normalized sum, sum) of `value` and `residual`."""

    @abstractmethod
    def _linear(self, value: str, modules: Sequence[str], output: str) -> str:
        """One product with the modules' weights stacked along their outputs, and their biases where they have any."""

    @abstractmethod
    def _head(self, hidden: str, module: str) -> None:
        """`logits` of the positions that are asked for."""

    def _stacked(self, modules: Sequence[str]) -> Floats:
        """The modules' weights as one, [outputs, inputs]."""
        return np.concatenate([self._wanted(f"{module}.weight") for module in modules])

    def _codes(self, modules: Sequence[str], bits: int, block: int) -> tuple[NDArray[np.int8], Floats]:
        """The modules' weights as one in codes [outputs, inputs] and scales [outputs, blocks]: as they were calibrated, or
        rounded to nearest."""
        known = [self.rounded[module] for module in modules if module in self.rounded]
        if len(known) < len(modules):
            return nearest(self._stacked(modules), bits, block)
        return np.concatenate([one.codes_NK for one in known]), np.concatenate([one.scales_NB for one in known])

    def _stacked_bias(self, modules: Sequence[str]) -> Floats | None:
        """The modules' biases as one, zero for one without; None where none has any."""
        biases = [self.tensor(f"{module}.bias") for module in modules]
        if all(bias is None for bias in biases):
            return None
        outputs = [len(self._wanted(f"{module}.weight")) for module in modules]
        return np.concatenate(
            [np.zeros(n, np.float32) if bias is None else bias for bias, n in zip(biases, outputs, strict=True)]
        )

    def _wanted(self, name: str) -> Floats:
        tensor = self.tensor(name)
        if tensor is None:
            raise PackageError(f"the checkpoint has no weight {name}; was it saved whole?")
        return tensor

    def _constant(self, name: str, array: NDArray[Any]) -> str:
        from onnx import numpy_helper

        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def _node(self, operator: str, inputs: Sequence[str], output: str, *more_outputs: str, **attributes: Any) -> str:
        """Add one operator; returns the name of its first output."""
        from onnx import helper

        domain = self.domains.get(operator, "")
        outputs = [output, *more_outputs]
        self.nodes.append(helper.make_node(operator, inputs, outputs, name=output, domain=domain, **attributes))
        return output
