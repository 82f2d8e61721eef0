"""Perplexity of a shape and quantization before it is built, and how sure that is.

The logarithm of perplexity is taken to be linear in what a shape is known by before it is trained (its one-block scores and
how much of the base it leaves out), in the quantization and in the text it is measured on; on top comes what is a shape's own,
the same in every quantization and text. Whatever was measured of any candidate corrects all: the posterior of a Gaussian
linear model (Bishop, Pattern Recognition and Machine Learning, 2006, section 3.3).

Legend: N measurements, F features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from components.blocks import BlockScores
from components.shape import QUARTERS, LayerShape

if TYPE_CHECKING:
    from components.selection import Cut

Features = Mapping[str, float]

_NOISE = 0.01
"""Of one measured log-perplexity, what no feature explains."""
_OWN = 0.15
"""How far a shape that leaves out everything may be from the line; in proportion for others. On SmolLM2-135M 0.06 at 40 %."""


@dataclass(frozen=True)
class Outline:
    """What a shape is known by before it is trained."""

    name: str
    scores: float
    """Its one-block scores added up, in the unit of the selection's metric."""
    removed: float
    """Share of the base's attentions and FFN quarters that it leaves out."""

    @classmethod
    def of(cls, name: str, cut: Cut, blocks: BlockScores, neurons: int) -> Outline:
        """`neurons` are those of a whole FFN; a width between two quarters scores between them."""
        kept = {layer.index: layer for layer in cut.layers}
        scores = blocks_kept = 0.0
        for index in range(len(blocks.by_layer)):
            layer = kept.get(index)
            attends, quarters = (layer.attention, QUARTERS * layer.neurons / neurons) if layer else (False, 0.0)
            low, part = int(quarters), quarters % 1
            high = min(low + 1, QUARTERS)
            scores += (1 - part) * blocks.of(index, LayerShape(attends, low))
            scores += part * blocks.of(index, LayerShape(attends, high))
            blocks_kept += attends + quarters
        return cls(name, scores, 1 - blocks_kept / (len(blocks.by_layer) * (1 + QUARTERS)))


def features(outline: Outline, quantization: str | None, *, evaluation: bool) -> dict[str, float]:
    """Of a shape in a quantization (None: the float model) on the evaluation's text, or the validation's."""
    own = {"level": 1.0, "scores": outline.scores, "removed": outline.removed, f"shape {outline.name}": outline.removed}
    text = {"evaluation": 1.0, "evaluation, removed": outline.removed} if evaluation else {}
    rounding = {quantization: 1.0, f"{quantization}, removed": outline.removed} if quantization else {}
    return {**own, **text, **rounding}


class Quality:
    """The posterior after `measured`: features of each and its perplexity. `ratios` are what each quantization is known to cost."""

    def __init__(self, measured: Sequence[tuple[Features, float]], ratios: Mapping[str, float]) -> None:
        if not measured:
            raise ValueError("perplexity is predicted from at least one measurement; the supernet's own are a start")
        self._ratios = ratios
        names = sorted({name for features, _ in measured for name in features})
        self._index = {name: number for number, name in enumerate(names)}
        logs_N = np.log([perplexity for _, perplexity in measured])
        self._middle = float(logs_N.mean())
        mean_F = np.array([self._mean(name) for name in names])
        features_NF = np.array([self._row(features) for features, _ in measured])
        precision_FF = np.diag([self._spread(name) ** -2 for name in names]) + features_NF.T @ features_NF / _NOISE**2
        self._covariance_FF = np.linalg.inv(precision_FF)
        self._mean_F = mean_F + self._covariance_FF @ features_NF.T @ (logs_N - features_NF @ mean_F) / _NOISE**2

    def predict(self, features: Features) -> tuple[float, float]:
        """Mean and standard deviation of the logarithm of perplexity; what was never seen adds its own spread."""
        row_F = self._row(features)
        new = [(value, name) for name, value in features.items() if name not in self._index]
        mean = float(row_F @ self._mean_F) + sum(value * self._mean(name) for value, name in new)
        variance = float(row_F @ self._covariance_FF @ row_F) + _NOISE**2
        return mean, math.sqrt(variance + sum((value * self._spread(name)) ** 2 for value, name in new))

    def _row(self, features: Features) -> NDArray[np.float64]:
        row_F = np.zeros(len(self._index))
        for name, value in features.items():
            if name in self._index:
                row_F[self._index[name]] = value
        return row_F

    def _mean(self, name: str) -> float:
        if name == "level":
            return self._middle
        return math.log(self._ratios.get(name, 1.0))

    def _spread(self, name: str) -> float:
        """Wide for what the supernet's own measurements decide; narrow for what only built packages show."""
        if name in self._ratios:
            return 0.005 + 0.5 * abs(math.log(self._ratios[name]))
        if name.startswith("shape "):
            return _OWN
        return 0.1 if name.endswith(", removed") else 3.0
