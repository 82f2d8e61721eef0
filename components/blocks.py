"""Stage 1, any budget: each block's removal measured alone, then the best mixed shape for a budget by an exact knapsack.

A block is a layer's attention or a quarter of its FFN. What removing one costs, all others in place, is a one-block score
(Puzzle, arXiv 2411.19146, section 4, the other way round: there blocks are replaced). Scores are added up, which is only
nearly true; so the choice is repaired by swaps on the true metric.

Legend: L layers, Q quarters kept.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from components.knapsack import Knapsack, Option
from components.shape import GONE, QUARTERS, WHOLE, LayerShape, MixedShape

_STEPS = 20_000
"""Costs are whole numbers to the knapsack: this many for the full shape, each rounded up, so a budget is never exceeded."""


class Metric(Protocol):
    @property
    def layers(self) -> int: ...

    def __call__(self, shape: MixedShape, good_enough: float = float("inf")) -> float: ...


@dataclass(frozen=True)
class BlockScores:
    """The metric of the full model with one layer cut to a shape, less the full model's own."""

    by_layer: tuple[dict[LayerShape, float], ...]

    def of(self, index: int, shape: LayerShape) -> float:
        """Measured where it was measured; else attention's and the FFN's added."""
        known = self.by_layer[index]
        if shape in known:
            return known[shape]
        return known[LayerShape(False, QUARTERS)] + known[LayerShape(True, shape.quarters)]

    def total(self, shape: MixedShape) -> float:
        """What the whole shape is predicted to cost."""
        return sum(self.of(index, layer) for index, layer in enumerate(shape.layers))


MEASURED = (LayerShape(False, QUARTERS), *(LayerShape(True, quarters) for quarters in range(QUARTERS)), GONE)
"""Six a layer: no attention; three, two, one or no quarters of the FFN; nothing at all."""
OPTIONS = tuple(itertools.starmap(LayerShape, itertools.product((True, False), range(QUARTERS, -1, -1))))
"""The ten ways to build a layer."""


def score_blocks(metric: Metric, progress: Callable[[int, int], None] = lambda done, total: None) -> BlockScores:
    """Six measurements a layer: 180 for 30 layers."""
    whole = MixedShape.whole(metric.layers)
    full = metric(whole)
    scores = []
    for index in range(metric.layers):
        known = {WHOLE: 0.0}
        for option in MEASURED:
            known[option] = metric(whole.with_layer(index, option)) - full
        scores.append(known)
        progress(index + 1, metric.layers)
    return BlockScores(tuple(scores))


Cost = Callable[[LayerShape], float]
"""What a layer of this shape costs: parameters, bytes or predicted milliseconds."""


class AnyBudget:
    """The best choice for every budget at once; `cost` is in any unit, and budgets are in the same."""

    def __init__(self, scores: BlockScores, cost: Cost, kept_last: int = 1) -> None:
        self._scores, self._cost = scores, cost
        layers = len(scores.by_layer)
        self.full = layers * cost(WHOLE)
        self._unit = self.full / _STEPS
        last = layers - kept_last
        self._options = [[o for o in OPTIONS if index < last or o.attention] for index in range(layers)]
        items = [
            [Option(self._steps(option), scores.of(index, option)) for option in options]
            for index, options in enumerate(self._options)
        ]
        self._knapsack = Knapsack(items, _STEPS + layers)

    def cost_of(self, shape: MixedShape) -> float:
        return sum(self._cost(layer) for layer in shape.layers)

    def choose(self, budget: float) -> MixedShape:
        """The choice of least summed score within `budget`; raises ValueError naming the cheapest when none fits."""
        if budget >= self.full:
            return MixedShape.whole(len(self._options))
        try:
            taken = self._knapsack.choose(int(budget / self._unit))
        except ValueError as error:
            cheapest = sum(min(self._cost(option) for option in options) for options in self._options)
            raise ValueError(f"no shape costs at most {budget:g}; the cheapest costs {cheapest:g}") from error
        return MixedShape(tuple(options[index] for options, index in zip(self._options, taken, strict=True)))

    def repair(
        self,
        shape: MixedShape,
        budget: float,
        metric: Metric,
        evaluations: int,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> MixedShape:
        """`shape` after the swaps of two layers' blocks that made the true metric better, `evaluations` tried at most.

        Swaps are tried in the order of what their scores promise; each that helps is kept, and the order made anew.
        """
        best, tried = metric(shape), {shape}
        for done in range(evaluations):
            candidate = next((s for s in self._swaps(shape, budget) if s not in tried), None)
            if candidate is None:
                break
            tried.add(candidate)
            value = metric(candidate, best)
            if value < best:
                shape, best = candidate, value
            progress(done + 1, evaluations)
        return shape

    def _swaps(self, shape: MixedShape, budget: float) -> Iterator[MixedShape]:
        """Shapes within `budget` in which one layer loses and another gains, the most promising first."""
        left = budget - self.cost_of(shape)
        steps = [
            (
                index,
                option,
                self._cost(option) - self._cost(shape.layers[index]),
                self._scores.of(index, option) - self._scores.of(index, shape.layers[index]),
            )
            for index, options in enumerate(self._options)
            for option in options
            if option != shape.layers[index]
        ]
        gains = [step for step in steps if step[2] > 0]
        losses = [step for step in steps if step[2] < 0]
        pairs = [
            (gain[3] + loss[3], gain[0], loss[0], gain[1], loss[1])
            for gain, loss in itertools.product(gains, losses)
            if gain[0] != loss[0] and gain[2] + loss[2] <= left
        ]
        for _, gaining, losing, more, less in sorted(pairs, key=lambda pair: pair[:3]):
            changed = shape.with_layer(gaining, more).with_layer(losing, less)
            # A swap that leaves the cost far below the budget only makes the model worse.
            if self.cost_of(changed) > budget - 0.02 * self.full:
                yield changed

    def _steps(self, option: LayerShape) -> int:
        return -int(-self._cost(option) // self._unit)
