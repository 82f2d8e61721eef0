"""Two releases figure by figure, where their figures compare."""

from __future__ import annotations

from dataclasses import dataclass

from flows.report import words
from flows.report.record import Release, Spot


@dataclass(frozen=True)
class Change:
    """One figure of two releases; `change` is a ratio for costs and a difference for shares."""

    figure: str
    before: str
    now: str
    change: str
    meaning: str


_COSTS = (
    ("perplexity", "quality", "better"),
    ("time per token, ms", "time", "faster"),
    ("time to first token, ms", "time", "faster"),
    ("peak memory, MB", "time", "less"),
    ("size, MB", "", "smaller"),
)
"""Figures that are better when they are smaller, what they can be compared by, and the word for it."""


def changes(before: Release, now: Release) -> list[Change]:
    """What differs between two releases in plain figures; no change is told where two figures do not compare."""
    same = {
        "": True,
        "time": before.spot.measured_on == now.spot.measured_on and before.machine == now.machine,
        "quality": before.data_revision == now.data_revision,
    }
    found = []
    for (figure, by, better), was, now_is in zip(_COSTS, _costs(before.spot), _costs(now.spot), strict=True):
        if was is not None and now_is is not None:
            percent = 100 * (now_is / was - 1)
            meaning = "the same" if abs(percent) < 0.05 else better if percent < 0 else _WORSE[better]
            told = (f"{words.signed(percent)} %", meaning) if same[by] else ("", _APART[by])
            found.append(Change(figure, words.number(was, 4), words.number(now_is, 4), *told))
    if before.spot.accuracy is not None and now.spot.accuracy is not None:
        points = 100 * (now.spot.accuracy.value - before.spot.accuracy.value)
        meaning = "the same" if abs(points) < 0.05 else "better" if points > 0 else "worse"
        told = (f"{words.signed(points)} points", meaning) if same["quality"] else ("", _APART["quality"])
        shares = (words.percent(before.spot.accuracy.value), words.percent(now.spot.accuracy.value))
        found.append(Change("accuracy", *shares, *told))
    return found


def _costs(spot: Spot) -> tuple[float | None, ...]:
    perplexity = spot.perplexity.value if spot.perplexity is not None else None
    return perplexity, spot.tpot_ms.value, spot.ttft_ms.value, spot.memory_mb, spot.size_mb


_APART = {"time": "not compared: measured differently", "quality": "not compared: on different text"}
_WORSE = {"better": "worse", "faster": "slower", "less": "more", "smaller": "larger"}
