"""Stage 1, width: one importance score a neuron and a key-value group, and the permutation that sorts neurons by it.

After sorting, the full model computes what it did, every narrower shape is a contiguous prefix, and all widths nest
(ElastiLM, arXiv 2409.09071, section 3.2).

Legend: L layers, F FFN neurons, G key-value groups, D channels of one group's queries, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from components import family

Metric = Literal["fluctuation", "mean_square"]


@dataclass(frozen=True)
class WidthScores:
    """More is more important; scores are compared within a layer, never across layers."""

    neuron_scores_LF: Tensor
    group_scores_LG: Tensor

    @property
    def neuron_order_LF(self) -> Tensor:
        """Neuron indices of each layer by falling score; ties keep the base's order."""
        return torch.argsort(self.neuron_scores_LF, dim=1, descending=True, stable=True)


class _Moments:
    """Running mean and sum of squared deviations of the channels of one linear layer's input, in float64."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.mean = torch.zeros(channels, dtype=torch.float64)
        self.deviation = torch.zeros(channels, dtype=torch.float64)

    def add(self, values: Tensor) -> None:
        """Merge a batch, shape [..., channels] (Chan et al., 1983)."""
        rows = values.detach().reshape(-1, values.shape[-1]).to("cpu", torch.float64)
        mean = rows.mean(0)
        total = self.count + len(rows)
        shift = mean - self.mean
        self.deviation += (rows - mean).square().sum(0) + shift.square() * (self.count * len(rows) / total)
        self.mean += shift * (len(rows) / total)
        self.count = total

    def score(self, weight_OI: Tensor, metric: Metric) -> Tensor:
        """FLAP's fluctuation Var[x_j] |W_j|^2 (AAAI 2024, equation 5), or E[x_j^2] |W_j|^2."""
        variance = self.deviation / self.count
        spread = variance if metric == "fluctuation" else variance + self.mean.square()
        return spread * weight_OI.detach().to("cpu", torch.float64).square().sum(0)


@torch.no_grad()
def score_widths(
    model: PreTrainedModel,
    batches: Sequence[Tensor],
    metric: Metric = "fluctuation",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> WidthScores:
    """Scores from one forward pass over `batches`, each token ids [B, T]."""
    if metric not in ("fluctuation", "mean_square"):
        raise ValueError(f"no width metric is called {metric!r}; there are fluctuation and mean_square")
    layers = family.decoder_layers(model)
    watched = [(layer.mlp.down_proj, layer.self_attn.o_proj) for layer in layers]
    moments = {module: _Moments(module.in_features) for pair in watched for module in pair}
    hooks = [
        module.register_forward_pre_hook(lambda module, inputs: moments[module].add(inputs[0])) for module in moments
    ]
    try:
        for index, tokens_BT in enumerate(batches):
            model.model(input_ids=tokens_BT.to(model.device), use_cache=False)
            progress(index + 1, len(batches))
    finally:
        for hook in hooks:
            hook.remove()
    groups = model.config.num_key_value_heads
    return WidthScores(
        neuron_scores_LF=torch.stack([moments[down].score(down.weight, metric) for down, _ in watched]),
        group_scores_LG=torch.stack(
            [moments[out].score(out.weight, metric).reshape(groups, -1).sum(1) for _, out in watched]
        ),
    )


@torch.no_grad()
def permute_neurons(model: PreTrainedModel, neuron_order_LF: Tensor) -> None:
    """Reorder every layer's neurons in place: rows of gate and up, columns of down."""
    for layer, order_F in zip(family.decoder_layers(model), neuron_order_LF, strict=True):
        for name in ("gate_proj", "up_proj"):
            linear: nn.Linear = getattr(layer.mlp, name)
            linear.weight.copy_(linear.weight[order_F])
            if linear.bias is not None:
                linear.bias.copy_(linear.bias[order_F])
        down: nn.Linear = layer.mlp.down_proj
        down.weight.copy_(down.weight[:, order_F])
