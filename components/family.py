"""The model families the elastic method knows, described in one place.

All four share the pre-norm decoder layer `self_attn.{q,k,v,o}_proj` and `mlp.{gate,up,down}_proj`; what they add
(attention bias in Qwen2, QK-norm in Qwen3) is untouched by cutting whole layers and FFN neurons.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
ATTENTION_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj")
FFN_LINEARS = ("gate_proj", "up_proj", "down_proj")


def check(config: dict[str, Any]) -> None:
    """Raise ValueError when a Hugging Face `config.json` is of no family that is known."""
    given = (config.get("architectures") or ["none named"])[0]
    if given not in ARCHITECTURES:
        raise ValueError(f"the base is a {given}; supported are {', '.join(ARCHITECTURES)}")


def decoder_layers(model: PreTrainedModel) -> list[Any]:
    """The decoder layers that run; untyped, since each family has a class of its own for them."""
    return list(model.model.layers)


def linears(layer: Any) -> Iterator[tuple[Any, str]]:
    """(parent module, attribute name) of every linear layer that adapters go on."""
    for name in ATTENTION_LINEARS:
        yield layer.self_attn, name
    for name in FFN_LINEARS:
        yield layer.mlp, name
