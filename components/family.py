"""The model families the elastic method knows, described in one place.

All four share the pre-norm decoder layer `self_attn.{q,k,v,o}_proj` and `mlp.{gate,up,down}_proj`; what they add
(attention bias in Qwen2, QK-norm in Qwen3) is untouched by cutting layers, attention and FFN neurons.

Legend: B sequences, T positions, H hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from components.checkpoint import architecture_of

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
ROPE_TYPES = ("default", "linear", "llama3")
"""Rotary positions that are turned alike however long the text is."""
ATTENTION_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj")
FFN_LINEARS = ("gate_proj", "up_proj", "down_proj")


def check(config: Mapping[str, Any]) -> None:
    """Raise ValueError when a model, by its `config.json`, is of no family that is known or computes what devices do not."""
    rope = rope_of(config)
    facts: tuple[tuple[str, object, tuple[object, ...]], ...] = (
        ("architecture", architecture_of(config), ARCHITECTURES),
        ("rope_type", rope_type(rope), ROPE_TYPES),
        ("partial_rotary_factor", rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0)), (1.0,)),
        ("hidden_act", config.get("hidden_act", "silu"), ("silu",)),
    )
    for name, given, known in facts:
        if given not in known:
            raise ValueError(f"the model's {name} is {given}; supported: {', '.join(map(str, known))}")


def rope_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of rotary positions, whichever transformers wrote them."""
    theta = config.get("rope_theta") or 10_000.0
    return {"rope_theta": theta, **(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}


def rope_type(rope: Mapping[str, Any]) -> str:
    return str(rope.get("rope_type", rope.get("type", "default")))


def window_of(config: Mapping[str, Any]) -> int | None:
    """How many tokens back a layer sees; None where it sees all."""
    return config.get("sliding_window") if config.get("use_sliding_window", True) else None


def longest_context(config: Mapping[str, Any]) -> int:
    """Tokens that every layer sees at once: the model's positions, or its sliding window where that is shorter."""
    return int(min(config["max_position_embeddings"], window_of(config) or config["max_position_embeddings"]))


def attention_weights(config: Mapping[str, Any]) -> int:
    """Weights of one layer's four attention projections, biases left out."""
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    key_value_heads = config.get("num_key_value_heads") or heads
    return int(2 * config["hidden_size"] * head_dim * (heads + key_value_heads))


def neuron_weights(config: Mapping[str, Any]) -> int:
    """Weights of one FFN neuron: a row of gate, a row of up, a column of down."""
    return 3 * int(config["hidden_size"])


def weights(config: Mapping[str, Any]) -> int:
    """Of all layers, embedding and head."""
    layer = attention_weights(config) + neuron_weights(config) * int(config["intermediate_size"])
    tables = 1 if config.get("tie_word_embeddings", False) else 2
    return int(config["num_hidden_layers"]) * layer + tables * int(config["vocab_size"]) * int(config["hidden_size"])


def decoder_layers(model: PreTrainedModel) -> list[Any]:
    """The decoder layers that run; untyped, since each family has a class of its own for them."""
    return list(model.model.layers)


def check_layers(model: PreTrainedModel) -> None:
    """Raise ValueError when a layer lacks a part that its family says it has."""
    for index, layer in enumerate(decoder_layers(model)):
        for name, parts in (("self_attn", ATTENTION_LINEARS), ("mlp", FFN_LINEARS)):
            lacking = [part for part in parts if not hasattr(getattr(layer, name, None), part)]
            if lacking:
                raise ValueError(
                    f"layer {index} of the base has no {name}.{lacking[0]}: it is not built as its family says"
                )
        width = layer.mlp.gate_proj.out_features
        if width != model.config.intermediate_size:
            raise ValueError(f"layer {index} has {width} FFN neurons, its config says {model.config.intermediate_size}")


def run_layer(layer: Any, hidden_BTH: Tensor, arguments: dict[str, Any], *, attention: bool, neurons: int) -> Tensor:
    """One decoder layer, with or without its attention, and with the first `neurons` of its FFN (0: none)."""
    if attention:
        attended_BTH, _ = layer.self_attn(hidden_states=layer.input_layernorm(hidden_BTH), **arguments)
        hidden_BTH = hidden_BTH + attended_BTH
    if neurons:
        hidden_BTH = hidden_BTH + _narrow(layer.mlp, layer.post_attention_layernorm(hidden_BTH), neurons)
    return hidden_BTH


def _narrow(mlp: Any, x_BTH: Tensor, neurons: int) -> Tensor:
    from torch.nn.functional import linear

    def first(projection: Any) -> Tensor:
        bias = None if projection.bias is None else projection.bias[:neurons]
        return linear(x_BTH, projection.weight[:neurons], bias)

    gated = mlp.act_fn(first(mlp.gate_proj)) * first(mlp.up_proj)
    return linear(gated, mlp.down_proj.weight[:, :neurons], mlp.down_proj.bias)


def linears(layer: Any) -> Iterator[tuple[Any, str]]:
    """(parent module, attribute name) of every linear layer that adapters go on."""
    for name in ATTENTION_LINEARS:
        yield layer.self_attn, name
    for name in FFN_LINEARS:
        yield layer.mlp, name
