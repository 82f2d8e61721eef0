"""How much of what a baseline's frontier commands, in the plane of time and loss, its candidate's lost. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from components.frontier import hypervolume
from components.paired import Worsening, of_likelihoods, of_ratios

_RESAMPLES = 2_000
_SEED = 20_261
Succession = Literal["dominated by its successor", "dominates its successor", "neither dominates"]
_BEYOND = math.log(2)
"""How far the reference lies beyond the worst point: twice its time, and twice its perplexity."""


@dataclass(frozen=True)
class Member:
    """One artifact of a frontier, as measured in a session: a run in every round, and the text's windows."""

    tpot_ms: tuple[float, ...]
    nats: tuple[float, ...]


def frontier_worsening(
    baseline: Sequence[Member], candidate: Sequence[Member], level: float
) -> tuple[float, float, Worsening]:
    """Both hypervolumes, and the share that the candidate lost with a bootstrap's bounds.

    One reference serves both sides and every resample: the baseline's slowest and worst, doubled. All members of both sides
    ran in every round, so what slowed a whole round is taken out of it. Rounds are drawn for all members at once, and so
    are windows, since every member read the same text.

    A bootstrap of few rounds is too narrow. So its bounds are moved out as Student's t with one degree less than there are
    rounds (or windows, where those are fewer) is wider than the normal distribution, and by the share that its variance is
    too small (Hesterberg, The American Statistician 69(4), 2015, section 3.2); `chance` is that t's.
    """
    from scipy.stats import norm, t

    rounds = {len(member.tpot_ms) for member in (*baseline, *candidate)}
    windows = {len(member.nats) for member in (*baseline, *candidate)}
    if len(rounds) != 1 or len(windows) != 1 or min(rounds | windows) < 2:
        raise ValueError(
            f"all members need the same two or more runs and windows, got {sorted(rounds)}, {sorted(windows)}"
        )
    count, length = rounds.pop(), windows.pop()
    disturbed_R = np.log([member.tpot_ms for member in (*baseline, *candidate)]).mean(0)
    sides = [_Side(members, disturbed_R - disturbed_R.mean()) for members in (baseline, candidate)]
    every = np.arange(count), np.arange(length)
    points = sides[0].points(*every)
    reference = max(time for time, _ in points) + _BEYOND, max(loss for _, loss in points) + _BEYOND

    def areas(drawn_rounds: NDArray[np.int64], drawn_windows: NDArray[np.int64]) -> tuple[float, float]:
        before, after = (hypervolume(side.points(drawn_rounds, drawn_windows), reference) for side in sides)
        return before, after

    generator = np.random.default_rng(_SEED)
    drawn = (
        areas(generator.integers(count, size=count), generator.integers(length, size=length)) for _ in range(_RESAMPLES)
    )
    lost = np.array([1 - after / before if before else 0.0 for before, after in drawn])
    before, after = areas(*every)
    estimate, fewest = 1 - after / before, min(count, length)
    narrow = math.sqrt(fewest / (fewest - 1))
    wider = narrow * float(t.ppf(1 - level, fewest - 1) / norm.ppf(1 - level))
    low, high = (estimate + wider * (float(bound) - estimate) for bound in np.quantile(lost, (level, 1 - level)))
    error = narrow * float(lost.std(ddof=1))
    chance = float(t.sf(estimate / error, fewest - 1)) if error else float(estimate <= 0)
    return before, after, Worsening(estimate, low, min(high, 1.0), chance, count)


def succession(older: Member, newer: Member, level: float) -> Succession:
    """Which of two dominates: surely better in time or loss, and in neither surely worse; `level` is of a sure difference."""
    worse = of_ratios(older.tpot_ms, newer.tpot_ms, level), of_likelihoods(older.nats, newer.nats, level)
    lost, won = any(one.low > 0 for one in worse), any(one.high < 0 for one in worse)
    if won and not lost:
        return "dominated by its successor"
    return "dominates its successor" if lost and not won else "neither dominates"


class _Side:
    def __init__(self, members: Sequence[Member], disturbed_R: NDArray[np.float64]) -> None:
        self._times_MR = np.log([member.tpot_ms for member in members]) - disturbed_R
        self._nats_MW = np.array([member.nats for member in members])

    def points(self, rounds: NDArray[np.int64], windows: NDArray[np.int64]) -> list[tuple[float, float]]:
        times, losses = self._times_MR[:, rounds].mean(1), self._nats_MW[:, windows].mean(1)
        return list(zip(times.tolist(), losses.tolist(), strict=True))
