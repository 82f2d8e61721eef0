"""A checkpoint whose layers differ: the model class of mixed shapes, for transformers and for whatever exports from it.

`config.json` is the base's own, with `model_type` "amoeba_mixed", the base's class as `base_architecture`, and `layers`: a
pair [attends, FFN neurons] for every layer that is left. Importing this module teaches `AutoModelForCausalLM` the class;
plain transformers refuses the checkpoint by its type, rather than load it into a model of other widths.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from components import family
from components.checkpoint import MIXED_TYPE
from components.selection import LayerCut

_OWN = ("base_model_type", "base_architecture", "layers")


class NoAttention(nn.Module):
    """Where a layer's attention was: adds nothing, and keeps nothing in the cache."""

    def forward(self, hidden_states: Tensor, **_: Any) -> tuple[Tensor, None]:
        return torch.zeros_like(hidden_states), None


class NoFeedForward(nn.Module):
    """Where a layer's FFN was: adds nothing."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        return torch.zeros_like(hidden_states)


class MixedConfig(PreTrainedConfig):
    """The base's configuration, and the shape of every layer."""

    model_type = MIXED_TYPE
    keys_to_ignore_at_inference = ("past_key_values",)

    @classmethod
    def of(cls, base: PreTrainedConfig, architecture: str, layers: Sequence[LayerCut]) -> MixedConfig:
        """`base` already says how many layers are left."""
        facts = {key: value for key, value in base.to_dict().items() if key not in ("model_type", "architectures")}
        facts |= {
            "architectures": ["MixedForCausalLM"],
            "base_model_type": base.model_type,
            "base_architecture": architecture,
            "layers": [[layer.attention, layer.neurons] for layer in layers],
        }
        return cls(**facts)

    def of_base(self) -> PreTrainedConfig:
        """What the base's class is built from."""
        dropped = (*_OWN, "model_type", "architectures", "transformers_version")
        facts = {key: value for key, value in self.to_dict().items() if key not in dropped}
        return AutoConfig.for_model(self.base_model_type, **facts)


class MixedForCausalLM(PreTrainedModel, GenerationMixin):
    """The base's class with layers of their own widths; modules have the names that they have in the base."""

    config_class = MixedConfig
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012
    _supports_sdpa = True

    def __init__(self, config: MixedConfig) -> None:
        super().__init__(config)
        whole = AutoModelForCausalLM.from_config(config.of_base())
        family.check_layers(whole)
        position = 0
        for layer, (attends, neurons) in zip(family.decoder_layers(whole), config.layers, strict=True):
            _cut_feed_forward(layer, neurons)
            layer.self_attn.layer_idx = position
            position += attends
            if not attends:
                layer.self_attn = NoAttention()
        self.model, self.lm_head = whole.model, whole.lm_head
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """As the base's: token ids [B, T] to logits [B, T, V], or of the last `logits_to_keep` positions."""
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        logits_BTV = self.lm_head(outputs.last_hidden_state[:, -logits_to_keep:])
        return CausalLMOutputWithPast(logits=logits_BTV, past_key_values=outputs.past_key_values)


def _cut_feed_forward(layer: Any, neurons: int) -> None:
    if not neurons:
        layer.mlp = NoFeedForward()
        return
    for name in family.FFN_LINEARS:
        old: nn.Linear = getattr(layer.mlp, name)
        inputs, outputs = (neurons, old.out_features) if name == "down_proj" else (old.in_features, neurons)
        factory = {"device": old.weight.device, "dtype": old.weight.dtype}
        setattr(layer.mlp, name, nn.Linear(inputs, outputs, bias=old.bias is not None, **factory))


AutoConfig.register(MixedConfig.model_type, MixedConfig)
AutoModelForCausalLM.register(MixedConfig, MixedForCausalLM)
