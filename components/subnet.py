"""A subnet on its own: dense, with no masks and no adapters left in it.

A homogeneous shape becomes an ordinary checkpoint of the base's class; a mixed one a checkpoint of `components.mixed`.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from components.base import Base, complete_texts
from components.lora import ElasticLinear
from components.mixed import MixedConfig, MixedForCausalLM
from components.selection import Cut
from components.shape import AnyShape
from components.supernet import Supernet


@dataclass(frozen=True)
class Subnet:
    """`model` shares no storage with the supernet it came from, except embeddings, norms and head."""

    model: PreTrainedModel
    shape: AnyShape

    def save(self, folder: Path, base: Base, card: str) -> None:
        """Write a Hugging Face folder with the base's tokenizer, template and licence, and `card` as its README."""
        self.model.save_pretrained(folder)
        complete_texts(base, folder)
        (folder / "README.md").write_text(card)


@torch.no_grad()
def extract(supernet: Supernet, shape: AnyShape) -> Subnet:
    """Slice and merge `shape` out; the supernet is left as it was."""
    with supernet.active(shape) as active:
        with torch.device("meta"):
            model = _empty(active, supernet.selection.cut(shape), supernet.full.depth)
        for name, module in _named_tensors(active).items():
            _place(model, name, module)
        model.tie_weights()
        model.generation_config = copy.deepcopy(active.generation_config)
        # Rotary frequencies are buffers, not weights: shared, since they depend on the head size alone.
        model.model.rotary_emb = active.model.rotary_emb
    return Subnet(model.eval(), shape)


def _empty(active: PreTrainedModel, cut: Cut, full_depth: int) -> PreTrainedModel:
    """A model of the subnet's class and sizes without weights."""
    config = copy.deepcopy(active.config)
    _cut_layer_lists(config, [part.index for part in cut.layers], full_depth)
    neurons = cut.uniform_neurons
    if neurons is None:
        return MixedForCausalLM(MixedConfig.of(config, type(active).__name__, cut.layers))
    config.intermediate_size = neurons
    model: PreTrainedModel = type(active)(config)
    return model


def _named_tensors(active: PreTrainedModel) -> dict[str, nn.Parameter]:
    """Every weight of the active subnet under the name it has in an ordinary checkpoint."""
    tensors: dict[str, nn.Parameter] = {}
    for name, module in active.named_modules():
        if isinstance(module, ElasticLinear):
            tensors.update({f"{name}.{key}": value for key, value in module.merged().named_parameters()})
    own = ("weight_OI", "bias_O", "A_ERI", "B_EOR")
    return {**tensors, **{name: value for name, value in active.named_parameters() if not name.endswith(own)}}


def _place(model: nn.Module, name: str, parameter: nn.Parameter) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, nn.Parameter(parameter.detach(), requires_grad=False))


def _cut_layer_lists(config: Any, layers: list[int], full_depth: int) -> None:
    """Some configurations name a type a layer; keep those of the layers that stay."""
    types = getattr(config, "layer_types", None)
    if types is not None and len(types) == full_depth:
        config.layer_types = [types[index] for index in layers]
