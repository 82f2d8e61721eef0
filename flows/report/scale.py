"""From figures to pixels, and where an axis has its ticks."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

_MOST_TICKS = 7


@dataclass(frozen=True)
class Scale:
    """`low` is drawn at pixel `start`, `high` at `end`; on a logarithmic scale equal ratios are equally far apart."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high or (self.logarithmic and self.low <= 0):
            raise ValueError(
                f"a scale goes from less to more, above 0 where logarithmic; got {self.low} to {self.high}"
            )

    @classmethod
    def around(
        cls, values: Iterable[float], start: float, end: float, *, logarithmic: bool = False, room_share: float = 0.07
    ) -> Scale:
        """With room on both sides of all values, a share of what they span; at least a tenth of the value wide."""
        known = list(values)
        if logarithmic:
            low, high = math.log(min(known)), math.log(max(known))
            room = max((high - low) * room_share, 0.05)
            return cls(math.exp(low - room), math.exp(high + room), start, end, True)
        room = max((max(known) - min(known)) * room_share, abs(max(known)) * 0.05, 1e-9)
        return cls(min(known) - room, max(known) + room, start, end)

    def __call__(self, value: float) -> float:
        if self.logarithmic:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, most: int = _MOST_TICKS) -> tuple[float, ...]:
        """Round numbers within the scale, the densest that are at most `most`; never fewer than two where that can be."""
        if self.logarithmic:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            for steps in ((1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
                found = self._within(step * 10.0**power for power in range(first, last + 1) for step in steps)
                if 3 <= len(found) <= most:
                    return found
        return self._even(most)

    def _even(self, most: int) -> tuple[float, ...]:
        power = 10.0 ** math.floor(math.log10((self.high - self.low) / most))
        for step in (1, 2, 2.5, 5, 10, 20):
            size = step * power
            found = self._within(
                round(k * size, 12) for k in range(math.ceil(self.low / size), int(self.high / size) + 1)
            )
            if len(found) <= most:
                break
        return found

    def _within(self, values: Iterable[float]) -> tuple[float, ...]:
        return tuple(value for value in values if self.low <= value <= self.high)
