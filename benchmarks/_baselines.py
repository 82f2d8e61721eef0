"""Other ways to choose what a subnet keeps, as their papers describe them, over the same calibration tokens.

Legend: L layers, B sequences, T positions, H hidden size, F FFN neurons, G key-value groups.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from components import family
from components.prefix import ShapeMetric
from components.readout import CrossEntropy
from components.shape import GONE, WHOLE, AnyShape, MixedShape
from components.supernet import Supernet


def without(layers: int, dropped: list[int]) -> MixedShape:
    return MixedShape(tuple(GONE if index in dropped else WHOLE for index in range(layers)))


def drop_last(layers: int, count: int) -> MixedShape:
    """The deepest layers but the very last."""
    return without(layers, list(range(layers - 1 - count, layers - 1)))


def drop_middle(layers: int, count: int) -> MixedShape:
    first = (layers - count) // 2
    return without(layers, list(range(first, first + count)))


@torch.no_grad()
def shortgpt(model: PreTrainedModel, tokens_BT: Tensor) -> Callable[[int], MixedShape]:
    """Drop the layers of least block influence, 1 - cos(in, out) (ShortGPT, arXiv 2403.03853, equation 1)."""
    states = model(tokens_BT, output_hidden_states=True, use_cache=False).hidden_states
    hidden_LBTH = [state.float() for state in states]
    influence = [
        float(1 - torch.cosine_similarity(before, after, dim=-1).mean())
        for before, after in itertools.pairwise(hidden_LBTH)
    ]
    order = sorted(range(len(influence)), key=influence.__getitem__)
    return lambda count: without(len(influence), order[:count])


def one_shot(model: PreTrainedModel, tokens_BT: Tensor) -> Callable[[int], MixedShape]:
    """Drop the layers whose removal alone leaves the least perplexity (Shortened LLaMA, arXiv 2402.02834, section 3.2)."""
    layers = len(family.decoder_layers(model))
    metric = ShapeMetric(model, tokens_BT, CrossEntropy(tokens_BT, 1))
    scores = [metric(without(layers, [index])) for index in range(layers - 1)]
    order = sorted(range(layers - 1), key=scores.__getitem__)
    return lambda count: without(layers, order[:count])


@dataclass(frozen=True)
class Flap:
    """Neurons and key-value groups kept by one ranking over all layers; what is removed is replaced by its mean.

    FLAP (AAAI 2024): fluctuation scores standardised a module and layer (equation 6), ranked together, with the removed
    channels' mean carried on as a bias (equation 7).
    """

    neurons_LF: Tensor
    channels_LC: Tensor
    """Of the attention's output, whole groups at a time."""
    neuron_means_LF: Tensor
    channel_means_LC: Tensor


class FlapScores:
    """Statistics from one forward pass; `keep` cuts them at a share of the block parameters."""

    @torch.no_grad()
    def __init__(self, model: PreTrainedModel, tokens_BT: Tensor) -> None:
        layers = family.decoder_layers(model)
        self._config = model.config.to_dict()
        inputs: dict[Any, list[Tensor]] = {}
        hooks = [
            module.register_forward_pre_hook(
                lambda module, args: inputs.setdefault(module, []).append(args[0].flatten(0, -2).double())
            )
            for layer in layers
            for module in (layer.mlp.down_proj, layer.self_attn.o_proj)
        ]
        model.model(input_ids=tokens_BT, use_cache=False)
        for hook in hooks:
            hook.remove()
        read = {module: torch.cat(values) for module, values in inputs.items()}
        self._groups = model.config.num_key_value_heads

        def scored(module: Any) -> Tensor:
            fluctuation: Tensor = read[module].var(0, unbiased=False) * module.weight.double().square().sum(0)
            return fluctuation

        neurons_LF = torch.stack([scored(layer.mlp.down_proj) for layer in layers])
        channels_LC = torch.stack([scored(layer.self_attn.o_proj) for layer in layers])
        self._neuron_means_LF = torch.stack([read[layer.mlp.down_proj].mean(0) for layer in layers])
        self._channel_means_LC = torch.stack([read[layer.self_attn.o_proj].mean(0) for layer in layers])
        groups_LG = channels_LC.unflatten(1, (self._groups, -1)).mean(-1)
        self._neurons_LF = _standardised(neurons_LF)
        self._groups_LG = _standardised(groups_LG)

    def keep(self, share: float) -> Flap:
        """`share` of the block parameters, by one threshold on neurons and groups."""
        neuron, group = (
            family.neuron_weights(self._config),
            family.attention_weights(self._config) // self._groups,
        )
        scores = torch.cat([self._neurons_LF.flatten(), self._groups_LG.flatten()])
        costs = torch.cat(
            [
                torch.full((self._neurons_LF.numel(),), float(neuron)),
                torch.full((self._groups_LG.numel(),), float(group)),
            ]
        ).double()
        order = scores.argsort(descending=True)
        kept = torch.zeros(len(scores), dtype=torch.bool)
        kept[order[costs[order].cumsum(0) <= share * costs.sum()]] = True
        neurons_LF = kept[: self._neurons_LF.numel()].view_as(self._neurons_LF)
        groups_LG = kept[self._neurons_LF.numel() :].view_as(self._groups_LG)
        channels_LC = groups_LG.repeat_interleave(self._channel_means_LC.shape[1] // self._groups, 1)
        return Flap(neurons_LF, channels_LC, self._neuron_means_LF, self._channel_means_LC)


def _standardised(scores: Tensor) -> Tensor:
    return (scores - scores.mean(1, keepdim=True)) / scores.std(1, keepdim=True)


@contextmanager
def flap_hooks(layers: list[Any], flap: Flap) -> Iterator[None]:
    """Layers run whole, with removed channels at their means: what cutting them and adding the bias computes."""

    def replacing(kept: Tensor, mean: Tensor) -> Callable[..., Any]:
        return lambda module, args: (torch.where(kept, args[0], mean.to(args[0].dtype)),)

    hooks = []
    for index, layer in enumerate(layers):
        for module, kept, mean in (
            (layer.mlp.down_proj, flap.neurons_LF[index], flap.neuron_means_LF[index]),
            (layer.self_attn.o_proj, flap.channels_LC[index], flap.channel_means_LC[index]),
        ):
            hooks.append(module.register_forward_pre_hook(replacing(kept, mean)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class FlapSupernet(Supernet):
    """Some of its shapes are FLAP's: all layers whole, channels replaced by their means."""

    flaps: dict[AnyShape, Flap]

    def activate(self, shape: AnyShape) -> None:
        before = getattr(self, "_hooks", None)
        if before is not None:
            before.__exit__(None, None, None)
            self._hooks = None
        flap = getattr(self, "flaps", {}).get(shape)
        super().activate(shape if flap is None else MixedShape.whole(self.full.depth))
        self.shape = shape
        if flap is not None:
            self._hooks = flap_hooks(family.decoder_layers(self.model), flap)
            self._hooks.__enter__()
