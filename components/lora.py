"""A linear layer that can run narrow and with a low-rank update; the weights below it stay the base's own.

Legend: O out features, I in features, R adapter rank. Slices are views: a narrow student costs less than the full
model and copies nothing.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ElasticLinear(nn.Module):
    """A frozen linear layer of which the first `out_active` rows and `in_active` columns run.

    The update is LoRA's (Hu et al., 2021, section 4.1): W + (alpha / R) B A, with B starting at zero. A and B are kept
    in float32 whatever the base's type, so that small steps are not rounded away.
    """

    def __init__(self, linear: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.weight_OI = nn.Parameter(linear.weight.detach(), requires_grad=False)
        self.bias_O = None if linear.bias is None else nn.Parameter(linear.bias.detach(), requires_grad=False)
        self.A_RI = nn.Parameter(torch.empty(rank, linear.in_features))
        self.B_OR = nn.Parameter(torch.zeros(linear.out_features, rank))
        nn.init.kaiming_uniform_(self.A_RI, a=math.sqrt(5))
        self.scale = alpha / rank
        self.out_active, self.in_active = linear.out_features, linear.in_features
        self.adapted = True

    def forward(self, x: Tensor) -> Tensor:
        weight_OI = self.weight_OI[: self.out_active, : self.in_active]
        bias_O = None if self.bias_O is None else self.bias_O[: self.out_active]
        base = F.linear(x, weight_OI, bias_O)
        if not self.adapted:
            return base
        A_RI, B_OR = self.A_RI[:, : self.in_active].to(x.dtype), self.B_OR[: self.out_active].to(x.dtype)
        update = F.linear(F.linear(x, A_RI), B_OR)
        return base + self.scale * update

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """An ordinary linear layer with new storage that computes what this one computes now."""
        weight_OI = self.weight_OI[: self.out_active, : self.in_active].clone()
        if self.adapted:
            weight_OI += self.scale * (self.B_OR[: self.out_active] @ self.A_RI[:, : self.in_active]).to(weight_OI)
        linear = nn.Linear(self.in_active, self.out_active, bias=self.bias_O is not None, device="meta")
        linear.weight = nn.Parameter(weight_OI)
        if self.bias_O is not None:
            linear.bias = nn.Parameter(self.bias_O[: self.out_active].clone())
        return linear
