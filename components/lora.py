"""Linear layers that can run narrow and with a low-rank update; the weights below it stay the base's own.

Legend: O out features, I in features, R adapter rank, E experts. Slices are views: a narrow student costs less than the
full model and copies nothing.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.smol import AdapterSettings

Factors = tuple[Tensor, Tensor]
"""A [R, I] and B [O, R] of an update W + B A, its scale in B."""


class ElasticLinear(nn.Module):
    """A frozen linear layer of which the first `out_active` rows and `in_active` columns run, with an update or without."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight_OI = nn.Parameter(linear.weight.detach(), requires_grad=False)
        self.bias_O = None if linear.bias is None else nn.Parameter(linear.bias.detach(), requires_grad=False)
        self.out_active, self.in_active = linear.out_features, linear.in_features
        self.update: Factors | None = None

    def factors(self) -> Factors | None:
        """The update for what is active now, None for none."""
        if self.update is None:
            return None
        A_RI, B_OR = self.update
        return A_RI[:, : self.in_active], B_OR[: self.out_active]

    def forward(self, x: Tensor) -> Tensor:
        weight_OI = self.weight_OI[: self.out_active, : self.in_active]
        bias_O = None if self.bias_O is None else self.bias_O[: self.out_active]
        base = F.linear(x, weight_OI, bias_O)
        factors = self.factors()
        if factors is None:
            return base
        A_RI, B_OR = factors
        return base + F.linear(F.linear(x, A_RI.to(x.dtype)), B_OR.to(x.dtype))

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """An ordinary linear layer with new storage that computes what this one computes now."""
        weight_OI = self.weight_OI[: self.out_active, : self.in_active].clone()
        factors = self.factors()
        if factors is not None:
            A_RI, B_OR = factors
            weight_OI += (B_OR @ A_RI).to(weight_OI)
        linear = nn.Linear(self.in_active, self.out_active, bias=self.bias_O is not None, device="meta")
        linear.weight = nn.Parameter(weight_OI)
        if self.bias_O is not None:
            linear.bias = nn.Parameter(self.bias_O[: self.out_active].clone())
        return linear


class ExpertLinear(ElasticLinear):
    """One whose update is mixed from experts, and can be trained.

    The update is LoRA's (Hu et al., 2021, section 4.1), W + (alpha / R) B A. Every expert's B starts at zero, and all start from
    the same A, so that experts differ by what they learn. A and B are kept in float32 whatever the base's type, so that small
    steps are not rounded away.
    """

    def __init__(self, linear: nn.Linear, settings: AdapterSettings) -> None:
        super().__init__(linear)
        first_RI = torch.empty(settings.rank, linear.in_features)
        nn.init.kaiming_uniform_(first_RI, a=math.sqrt(5))
        self.A_ERI = nn.Parameter(first_RI.expand(settings.experts, -1, -1).clone())
        self.B_EOR = nn.Parameter(torch.zeros(settings.experts, linear.out_features, settings.rank))
        self.scale, self._mixing = settings.alpha / settings.rank, settings.mixing
        self._mixture_E: Tensor | None = None

    def mix(self, mixture_E: Tensor | None) -> None:
        """Run with this mixture of experts from now on, or with no update where it is None."""
        self._mixture_E, self.update = mixture_E, None

    def factors(self) -> Factors | None:
        """Mixed once an activation, whatever the number of forward passes."""
        if self.update is None and self._mixture_E is not None:
            self.update = self._mixed(self._mixture_E)
        return self.update

    def _mixed(self, mixture_E: Tensor) -> Factors:
        """Of rank R for mixed factors, of R times the active experts for mixed products."""
        A_ERI, B_EOR = self.A_ERI[:, :, : self.in_active], self.B_EOR[:, : self.out_active]
        if len(mixture_E) == 1:
            return A_ERI[0], self.scale * B_EOR[0]
        used = mixture_E.detach().nonzero().flatten().tolist()
        weighted = [(mixture_E[e] * self.scale) * B_EOR[e] for e in used]
        if self._mixing == "factors":
            return sum_of([mixture_E[e] * A_ERI[e] for e in used]), sum_of(weighted)
        return torch.cat([A_ERI[e] for e in used]), torch.cat(weighted, 1)


def sum_of(tensors: list[Tensor]) -> Tensor:
    total = tensors[0]
    for tensor in tensors[1:]:
        total = total + tensor
    return total
