"""A model that runs as any of its shapes in place: which layers run, which slices of them, and nothing copied."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from torch import nn
from transformers import PreTrainedModel

from components import family
from components.lora import ElasticLinear
from components.mixed import NoAttention, NoFeedForward
from components.selection import Cut

Linear = TypeVar("Linear", bound=ElasticLinear)


class ElasticModel(Generic[Linear]):
    """Owns `model`: its linear layers are replaced by what `make` makes of them, and its weights frozen."""

    def __init__(self, model: PreTrainedModel, make: Callable[[nn.Linear], Linear]) -> None:
        family.check_layers(model)
        model.requires_grad_(False)
        self.model = model
        self._layers = family.decoder_layers(model)
        self._parts = [(layer.self_attn, layer.mlp) for layer in self._layers]
        self._no_attention, self._no_feed_forward = NoAttention(), NoFeedForward()
        self.linears: dict[str, Linear] = {}
        for index, layer in enumerate(self._layers):
            for parent, name in family.linears(layer):
                elastic = make(getattr(parent, name))
                setattr(parent, name, elastic)
                self.linears[f"{index}.{name}"] = elastic

    def run_as(self, cut: Cut) -> None:
        """Run as what `cut` keeps from now on."""
        kept, attending = [], 0
        for part in cut.layers:
            layer, (attention, feed_forward) = self._layers[part.index], self._parts[part.index]
            attention.layer_idx = attending
            attending += part.attention
            layer.self_attn = attention if part.attention else self._no_attention
            layer.mlp = feed_forward if part.neurons else self._no_feed_forward
            feed_forward.gate_proj.out_active = part.neurons
            feed_forward.up_proj.out_active = part.neurons
            feed_forward.down_proj.in_active = part.neurons
            kept.append(layer)
        self.model.model.layers = nn.ModuleList(kept)
        self.model.config.num_hidden_layers = len(kept)

    def layer(self, index: int) -> Any:
        """Layer `index` of the base, active or not."""
        return self._layers[index]
