"""How much `amoeba check` measures, and how much worse a figure may be; from `params.yaml`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from components.gate import Levels, Margins
from components.strict import checked


@dataclass(frozen=True)
class Effort:
    """How much is measured at each look."""

    runs: int
    new_tokens: int
    pairs: tuple[int, ...]
    """Runs of each side in turns, in all, by look."""
    questions: tuple[int, ...]
    """Questions answered, in all, by look."""
    frontier_rounds: int
    """Runs of every member, where both sides have a frontier."""
    false_alarms_percent: float
    """How often a gate on two equal artifacts may say regressed."""
    misses_percent: float
    """How often a figure that is worse by all of its margin may come out as holding."""

    def __post_init__(self) -> None:
        if len(self.pairs) != len(self.questions) or not self.pairs:
            raise ValueError(f"pairs and questions name as many looks, got {self.pairs} and {self.questions}")
        for grown in (self.pairs, self.questions):
            if list(grown) != sorted(grown) or grown[0] < 2:
                raise ValueError(f"every look measures at least what the one before did, got {grown}")
        if any(pairs % 2 for pairs in self.pairs):
            raise ValueError(f"pairs are even, one in each order, got {self.pairs}")

    @classmethod
    def of(cls, numbers: Any) -> Effort:
        """Raises SlipError."""
        return checked(cls, numbers, "params.yaml: gate")

    @property
    def levels(self) -> Levels:
        """Each look's share of both."""
        return Levels(self.false_alarms_percent / 100, self.misses_percent / 100).shared_by(len(self.pairs))


def margins_of(numbers: Any) -> Margins:
    """Raises SlipError."""
    return checked(Margins, numbers, "params.yaml: tolerances")
