"""Medians of interleaved rounds, and the ratio of two of them with a bootstrap interval."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_RESAMPLES = 4000


@dataclass(frozen=True)
class Ratio:
    """How many times as large the first one's median is as the second one's, with a 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f}-{self.high:.2f})"


def ratio(first: Sequence[float], second: Sequence[float], seed: int = 0) -> Ratio:
    """Rounds are drawn again together, since both took part in each: a slow round slows both (Efron, 1979)."""
    if len(first) != len(second) or not first:
        raise ValueError(f"got {len(first)} and {len(second)} rounds; wanted as many of each, at least 1")
    drawn = np.random.default_rng(seed).integers(0, len(first), (_RESAMPLES, len(first)))
    ratios = np.median(np.array(first)[drawn], axis=1) / np.median(np.array(second)[drawn], axis=1)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return Ratio(statistics.median(first) / statistics.median(second), float(low), float(high))
