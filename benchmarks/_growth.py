"""How fast something grows, one figure after another: a straight line through them, and how sure its slope is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FEWEST = 8
"""Figures that growth is told from."""
_DRAWS = 2000


@dataclass(frozen=True)
class Growth:
    """Growth over 100 steps, in the figure's own unit, with its 95 % interval; `level` is where the line begins."""

    level: float
    per_100: float
    low: float
    high: float

    def percent(self) -> Growth:
        """The same in percent of the level."""
        share = 100 / self.level if self.level else 0.0
        return Growth(self.level, self.per_100 * share, self.low * share, self.high * share)


def growth(values: Sequence[float], every: int = 1, *, seed: int = 0) -> Growth:
    """Least squares through figures taken `every` so many steps; the interval is a bootstrap's.

    Blocks are drawn, of the cube root of the number of figures, since neighbours resemble each other (Künsch, Annals of
    Statistics 17(3), 1989, section 2). Raises ValueError for too few figures to draw from.
    """
    values_N = np.asarray(values, dtype=float)
    count = len(values_N)
    if count < FEWEST:
        raise ValueError(f"growth is told from {FEWEST} figures or more, got {count}")
    steps_N, length = every * np.arange(count), round(count ** (1 / 3))
    starts_DB = np.random.default_rng(seed).integers(0, count - length + 1, size=(_DRAWS, -(-count // length)))
    drawn_DN = (starts_DB[:, :, None] + np.arange(length)).reshape(_DRAWS, -1)[:, :count]
    slopes_D = _slopes(steps_N[drawn_DN], values_N[drawn_DN])
    slope = float(_slopes(steps_N[None], values_N[None])[0])
    low, high = 100 * np.quantile(slopes_D, [0.025, 0.975])
    return Growth(float(values_N.mean() - slope * steps_N.mean()), 100 * slope, float(low), float(high))


def _slopes(steps_DN: NDArray[Any], values_DN: NDArray[Any]) -> NDArray[Any]:
    centred_DN = steps_DN - steps_DN.mean(axis=1, keepdims=True)
    slopes_D: NDArray[Any] = (centred_DN * values_DN).sum(axis=1) / (centred_DN**2).sum(axis=1)
    return slopes_D
