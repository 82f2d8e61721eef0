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

    One reference serves both sides and every resample: the baseline's slowest and worst, doubled. Rounds are drawn for all
    members at once, and so are windows, since every member met the same disturbance and read the same text.
    """
    rounds = {len(member.tpot_ms) for member in (*baseline, *candidate)}
    windows = {len(member.nats) for member in (*baseline, *candidate)}
    if len(rounds) != 1 or len(windows) != 1 or min(rounds | windows) < 2:
        raise ValueError(
            f"all members need the same two or more runs and windows, got {sorted(rounds)}, {sorted(windows)}"
        )
    count, length = rounds.pop(), windows.pop()
    sides = [_Side(members) for members in (baseline, candidate)]
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
    low, high = (float(value) for value in np.quantile(lost, (level, 1 - level)))
    chance = float((1 + (lost <= 0).sum()) / (1 + _RESAMPLES))
    return before, after, Worsening(1 - after / before, low, high, chance, count)


def succession(older: Member, newer: Member, level: float) -> Succession:
    """Which of two dominates: surely better in time or loss, and in neither surely worse; `level` is of a sure difference."""
    worse = of_ratios(older.tpot_ms, newer.tpot_ms, level), of_likelihoods(older.nats, newer.nats, level)
    lost, won = any(one.low > 0 for one in worse), any(one.high < 0 for one in worse)
    if won and not lost:
        return "dominated by its successor"
    return "dominates its successor" if lost and not won else "neither dominates"


class _Side:
    def __init__(self, members: Sequence[Member]) -> None:
        self._times_MR = np.log([member.tpot_ms for member in members])
        self._nats_MW = np.array([member.nats for member in members])

    def points(self, rounds: NDArray[np.int64], windows: NDArray[np.int64]) -> list[tuple[float, float]]:
        times, losses = self._times_MR[:, rounds].mean(1), self._nats_MW[:, windows].mean(1)
        return list(zip(times.tolist(), losses.tolist(), strict=True))
