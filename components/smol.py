"""The shape-aware mixture of LoRAs: one gate for the whole model says how much of each expert a shape gets.

From AmoebaLLM, section 4.2, with the noisy top-k gate of Shazeer et al. (2017). A gate that starts at random gives one expert
nearly everything, whatever the shape. This one starts with an anchor shape for each expert, so that a shape's mixture is
led by its nearest anchors; is dense at first; and pays for using experts unevenly over the shapes of a step.

Legend: E experts, D numbers that describe a shape, S shapes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

GateName = Literal["learned", "uniform", "one_a_shape"]
Mixing = Literal["factors", "product"]

_SHARPNESS = 2.0
"""Logits that an anchor is ahead of a typical other one at the start: with five experts it leads with 0.65."""


@dataclass(frozen=True)
class AdapterSettings:
    """Numbers of `params.yaml` that decide the adapters; one expert is plain LoRA."""

    rank: int
    alpha: float
    experts: int = 1
    top_k: int = 2
    mixing: Mixing = "factors"
    """`factors`: s (sum g B)(sum g A), as AmoebaLLM's code; `product`: s sum g B A, of rank top_k times as high."""
    gate: GateName = "learned"
    adapt_full: bool = False
    """The full shape is adapted too, and teaches in place, as in the paper; otherwise it is the base, bit for bit."""

    def __post_init__(self) -> None:
        if self.rank < 1 or self.experts < 1:
            raise ValueError(f"adapters need a rank and experts of at least 1, got {self.rank} and {self.experts}")
        if self.experts > 1 and not 1 <= self.top_k <= self.experts:
            raise ValueError(f"adapters.top_k is 1 to the {self.experts} experts, got {self.top_k}")
        for name, given, known in (("mixing", self.mixing, ("factors", "product")), ("gate", self.gate, GATES)):
            if given not in known:
                raise ValueError(f"adapters.{name} is one of {', '.join(known)}, got {given!r}")


GATES: tuple[GateName, ...] = ("learned", "uniform", "one_a_shape")


class Gate(nn.Module):
    """Shape descriptions [S, D] to mixtures [S, E]: exactly `active` of them non-zero, summing to one."""

    def __init__(self, anchors_ED: Tensor, top_k: int) -> None:
        """`anchors_ED` are descriptions of the shapes that the experts start at."""
        super().__init__()
        self.top_k = self.active = top_k
        self.noise_E: Tensor | None = None
        """Of one step of training, the same for all of its shapes; None for none."""
        distances_EE = torch.cdist(anchors_ED, anchors_ED).square()
        apart = distances_EE[distances_EE > 0]
        sharpness = _SHARPNESS / float(apart.median()) if len(apart) else 1.0
        # -sharpness |d - anchor|^2 is linear in d but for a term that all experts share.
        self.weight_ED = nn.Parameter(2 * sharpness * anchors_ED)
        self.bias_E = nn.Parameter(-sharpness * anchors_ED.square().sum(1))
        self.spread_ED = nn.Parameter(torch.zeros_like(anchors_ED))

    @property
    def experts(self) -> int:
        return len(self.bias_E)

    def forward(self, described_SD: Tensor) -> Tensor:
        logits_SE = described_SD @ self.weight_ED.T + self.bias_E
        if self.noise_E is not None:
            logits_SE = logits_SE + 0.1 * self.noise_E * nn.functional.softplus(described_SD @ self.spread_ED.T)
        kept_SK = logits_SE.topk(self.active, dim=-1).indices
        hidden_SE = torch.full_like(logits_SE, -math.inf).scatter(-1, kept_SK, 0.0)
        return (logits_SE + hidden_SE).softmax(-1)


@contextmanager
def exploring(gate: Gate | FixedGate, seed: int, *, dense: bool) -> Iterator[None]:
    """For a step of training: noise drawn from `seed`, and every expert active where `dense`."""
    gate.noise_E = torch.randn(gate.experts, generator=torch.Generator().manual_seed(seed))
    gate.active = gate.experts if dense else gate.top_k
    try:
        yield
    finally:
        gate.noise_E, gate.active = None, gate.top_k


class FixedGate(nn.Module):
    """For ablations: every expert alike (`uniform`), or an expert for each of `shapes` known descriptions."""

    def __init__(self, experts: int, known_SD: Tensor | None = None) -> None:
        super().__init__()
        self.experts, self.active, self.top_k = experts, experts, experts
        self.noise_E: Tensor | None = None
        self._known_SD = known_SD

    def forward(self, described_SD: Tensor) -> Tensor:
        if self._known_SD is None:
            return torch.full((len(described_SD), self.experts), 1 / self.experts)
        nearest_S = torch.cdist(described_SD, self._known_SD).argmin(1)
        return nn.functional.one_hot(nearest_S, self.experts).float()


def imbalance(mixtures_SE: Tensor) -> Tensor:
    """Squared coefficient of variation of the experts' use (Shazeer et al., 2017, equation 7): 0 when all are used alike."""
    used_E = mixtures_SE.sum(0)
    return used_E.var(unbiased=False) / used_E.mean().square()


def usage_entropy(mixtures_SE: Tensor) -> float:
    """Entropy in nats of how much each expert is used over all shapes: ln E when all alike, 0 when one does everything."""
    used_E = mixtures_SE.detach().mean(0)
    return float(-(used_E * used_E.clamp_min(1e-12).log()).sum())


def spread(count: int, described: Sequence[Tensor]) -> list[int]:
    """Indices of `count` descriptions far from each other, the first and the last among them (farthest-point sampling)."""
    points_SD = torch.stack(list(described))
    chosen = [0, len(points_SD) - 1][:count]
    while len(chosen) < min(count, len(points_SD)):
        nearest_S = torch.cdist(points_SD, points_SD[chosen]).min(1).values
        chosen.append(int(nearest_S.argmax()))
    return chosen + [0] * (count - len(chosen))
