"""The multiple-choice knapsack, solved exactly for every budget at once.

One option is taken for each item; the sum of scores is made least among the choices whose sum of costs stays within a
budget (Puzzle, arXiv 2411.19146, section 4; the recurrence is Dudzinski and Walukiewicz, 1987).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Option:
    """One way to build an item: a whole-number cost and the score it adds, less is better."""

    cost: int
    score: float

    def __post_init__(self) -> None:
        if self.cost < 0:
            raise ValueError(f"a cost is a whole number from 0 up, got {self.cost}")


class Knapsack:
    """All best choices up to `largest_budget`; building it takes items x options x budget steps."""

    def __init__(self, items: Sequence[Sequence[Option]], largest_budget: int) -> None:
        if not items or not all(items):
            raise ValueError("every item needs at least one option")
        budgets = np.arange(largest_budget + 1)
        best = np.zeros(largest_budget + 1)
        self._taken: list[np.ndarray] = []
        self._items = items
        for options in items:
            totals = np.full((len(options), largest_budget + 1), np.inf)
            for index, option in enumerate(options):
                room = budgets >= option.cost
                totals[index, room] = best[: int(room.sum())] + option.score
            self._taken.append(totals.argmin(axis=0))
            best = totals.min(axis=0)
        self._best = best

    def choose(self, budget: int) -> tuple[int, ...]:
        """The index of the option taken for each item; raises ValueError when even the cheapest does not fit."""
        if budget < 0 or not np.isfinite(self._best[min(budget, len(self._best) - 1)]):
            cheapest = sum(min(option.cost for option in options) for options in self._items)
            raise ValueError(f"no choice costs at most {budget}; the cheapest costs {cheapest}")
        left = min(budget, len(self._best) - 1)
        chosen = []
        for options, taken in zip(reversed(self._items), reversed(self._taken), strict=True):
            index = int(taken[left])
            chosen.append(index)
            left -= options[index].cost
        return tuple(reversed(chosen))
