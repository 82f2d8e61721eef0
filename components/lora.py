"""A linear layer that can run narrow and with a low-rank update; the weights below it stay the base's own.

Legend: O out features, I in features, R adapter rank, E experts. Slices are views: a narrow student costs less than the
full model and copies nothing.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.smol import AdapterSettings


class ElasticLinear(nn.Module):
    """A frozen linear layer of which the first `out_active` rows and `in_active` columns run.

    The update is LoRA's (Hu et al., 2021, section 4.1): W + (alpha / R) B A, where A and B are mixed from the experts by
    `mix`. Every expert's B starts at zero, and all start from the same A, so that experts differ by what they learn. A and B
    are kept in float32 whatever the base's type, so that small steps are not rounded away.
    """

    def __init__(self, linear: nn.Linear, settings: AdapterSettings) -> None:
        super().__init__()
        self.weight_OI = nn.Parameter(linear.weight.detach(), requires_grad=False)
        self.bias_O = None if linear.bias is None else nn.Parameter(linear.bias.detach(), requires_grad=False)
        first_RI = torch.empty(settings.rank, linear.in_features)
        nn.init.kaiming_uniform_(first_RI, a=math.sqrt(5))
        self.A_ERI = nn.Parameter(first_RI.expand(settings.experts, -1, -1).clone())
        self.B_EOR = nn.Parameter(torch.zeros(settings.experts, linear.out_features, settings.rank))
        self.scale, self._mixing = settings.alpha / settings.rank, settings.mixing
        self.out_active, self.in_active = linear.out_features, linear.in_features
        self._mixture_E: Tensor | None = None
        self._mixed: tuple[Tensor, Tensor] | None = None

    def mix(self, mixture_E: Tensor | None) -> None:
        """Run with this mixture of experts from now on, or with no update where it is None."""
        self._mixture_E, self._mixed = mixture_E, None

    def forward(self, x: Tensor) -> Tensor:
        weight_OI = self.weight_OI[: self.out_active, : self.in_active]
        bias_O = None if self.bias_O is None else self.bias_O[: self.out_active]
        base = F.linear(x, weight_OI, bias_O)
        if self._mixture_E is None:
            return base
        if self._mixed is None:
            self._mixed = self._factors(self._mixture_E)
        A_RI, B_OR = self._mixed
        update = F.linear(F.linear(x, A_RI.to(x.dtype)), B_OR.to(x.dtype))
        return base + self.scale * update

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """An ordinary linear layer with new storage that computes what this one computes now."""
        weight_OI = self.weight_OI[: self.out_active, : self.in_active].clone()
        if self._mixture_E is not None:
            A_RI, B_OR = self._factors(self._mixture_E)
            weight_OI += self.scale * (B_OR @ A_RI).to(weight_OI)
        linear = nn.Linear(self.in_active, self.out_active, bias=self.bias_O is not None, device="meta")
        linear.weight = nn.Parameter(weight_OI)
        if self.bias_O is not None:
            linear.bias = nn.Parameter(self.bias_O[: self.out_active].clone())
        return linear

    def _factors(self, mixture_E: Tensor) -> tuple[Tensor, Tensor]:
        """A and B of the mixture: of rank R for mixed factors, of R times the active experts for mixed products."""
        A_ERI, B_EOR = self.A_ERI[:, :, : self.in_active], self.B_EOR[:, : self.out_active]
        if len(mixture_E) == 1:
            return A_ERI[0], B_EOR[0]
        used = mixture_E.detach().nonzero().flatten()
        A_KRI, B_KOR, mixture_K11 = A_ERI[used], B_EOR[used], mixture_E[used, None, None]
        if self._mixing == "factors":
            return (mixture_K11 * A_KRI).sum(0), (mixture_K11 * B_KOR).sum(0)
        return A_KRI.flatten(0, 1), (mixture_K11 * B_KOR).transpose(0, 1).flatten(1)
