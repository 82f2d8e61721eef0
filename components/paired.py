"""How much worse a candidate is than its baseline, and how sure that is, where both faced the same things.

Both read the same text, answered the same questions, or took turns on the same machine, so what disturbs one disturbs
its pair and drops out of the difference. A worsening is positive; bounds are one-sided, each at the level that is asked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_DAYS_APART = 0.08
"""Two sessions of `benchmarks.predictor` on one machine were so far apart on average: a standard deviation of the logarithm."""
_MOST_PAIRS = 1_000_000
_RESAMPLES = 10_000
_SEED = 20_260


@dataclass(frozen=True)
class Worsening:
    """A difference for the worse, in the unit of what was compared."""

    estimate: float
    low: float
    high: float
    """One-sided bounds: the truth is below `low` with the level's probability, and above `high` with the same."""
    chance: float
    """p of a difference as large as this were the candidate no worse at all."""
    pairs: int

    def needed(self, margin: float) -> int | None:
        """About how many pairs would tell which side of the margin the truth is on, were the estimate right; None for none."""
        reach, distance = self.high - self.estimate, abs(margin - self.estimate)
        if not reach or not distance:
            return self.pairs
        times = (reach / distance) ** 2
        return max(self.pairs + 1, math.ceil(self.pairs * times)) if self.pairs * times < _MOST_PAIRS else None


def of_ratios(baseline: Sequence[float], candidate: Sequence[float], level: float) -> Worsening:
    """Of positive figures such as milliseconds: the mean log-ratio of the pairs, as a share (0.05 is 5 % more)."""
    return _as_share(of_means(np.log(baseline), np.log(candidate), level))


def of_days(
    baseline: Sequence[float], candidate: Sequence[float], level: float, apart: float = _DAYS_APART
) -> Worsening:
    """Of positive figures of fresh processes on two days, as a share: Welch's t (1947) on their logarithms.

    How far days are `apart`, a standard deviation, is added to the error as known. A single figure varies as the others do.
    """
    from scipy.stats import t

    before, after = np.log(baseline), np.log(candidate)
    if len(before) < 1 or len(after) < 2:
        raise ValueError(f"how sure a difference is takes a run and two of today, got {len(before)} and {len(after)}")
    alone = len(before) == 1
    parts = [float((after if alone else before).var(ddof=1)) / len(before), float(after.var(ddof=1)) / len(after)]
    freedoms = [(len(after) if alone else len(before)) - 1, len(after) - 1]
    estimate, error = float(after.mean() - before.mean()), math.sqrt(sum(parts) + apart**2)
    pairs = min(len(before), len(after))
    if error == 0:
        return _as_share(Worsening(estimate, estimate, estimate, 0.0 if estimate > 0 else 1.0, pairs))
    squares = sum(part**2 / freedom for part, freedom in zip(parts, freedoms, strict=True))
    freedom = error**4 / squares if squares else math.inf
    reach = float(t.ppf(1 - level, freedom)) * error
    chance = float(t.sf(estimate / error, freedom))
    return _as_share(Worsening(estimate, estimate - reach, estimate + reach, chance, pairs))


def of_likelihoods(baseline: Sequence[float], candidate: Sequence[float], level: float) -> Worsening:
    """Of windows' mean negative log-likelihoods, in nats: how much larger the perplexity is, as a share."""
    return _as_share(of_means(baseline, candidate, level))


def of_means(
    baseline: Sequence[float] | NDArray[np.float64], candidate: Sequence[float] | NDArray[np.float64], level: float
) -> Worsening:
    """Mean difference of the pairs with Student's t (1908); raises ValueError for other than two or more pairs.

    A candidate with a value that is no finite number is worse beyond any doubt; else one of such a baseline is better.
    """
    from scipy.stats import t

    before, after = np.asarray(baseline, float), np.asarray(candidate, float)
    pairs = len(before)
    if pairs < 2 or len(after) != pairs:
        raise ValueError(f"how sure a difference is takes two pairs or more, got {pairs} and {len(after)}")
    if not np.isfinite(after).all():
        return Worsening(math.inf, math.inf, math.inf, 0.0, pairs)
    if not np.isfinite(before).all():
        return Worsening(-math.inf, -math.inf, -math.inf, 1.0, pairs)
    differences = after - before
    estimate = float(differences.mean())
    error = float(differences.std(ddof=1)) / math.sqrt(pairs)
    if error == 0:
        return Worsening(estimate, estimate, estimate, 0.0 if estimate > 0 else 1.0, pairs)
    reach = float(t.ppf(1 - level, pairs - 1)) * error
    return Worsening(estimate, estimate - reach, estimate + reach, float(t.sf(estimate / error, pairs - 1)), pairs)


def of_answers(baseline: Sequence[bool], candidate: Sequence[bool], level: float) -> Worsening:
    """Share of the questions lost. `chance` is McNemar's exact test (1947); the bounds are a paired bootstrap's.

    The bootstrap draws from the questions and one more lost and one more won, so that few questions that all come out
    the same do not pass for certainty (Agresti and Min, 2005, add as much to a paired table).
    """
    from scipy.stats import binom

    lost = np.asarray(baseline, int) - np.asarray(candidate, int)
    questions = len(lost)
    if questions < 2:
        raise ValueError(f"how sure a difference is takes two questions or more, got {questions}")
    losses, wins = int((lost == 1).sum()), int((lost == -1).sum())
    drawn = np.random.default_rng(_SEED).multinomial(
        questions,
        np.array([losses + 1, wins + 1, questions - losses - wins]) / (questions + 2),
        size=_RESAMPLES,
    )
    shares = (drawn[:, 0] - drawn[:, 1]) / questions
    low, high = (float(value) for value in np.quantile(shares, (level, 1 - level)))
    return Worsening((losses - wins) / questions, low, high, float(binom.sf(losses - 1, losses + wins, 0.5)), questions)


def holm(chances: Sequence[float]) -> tuple[float, ...]:
    """The same p values, corrected for how many questions were asked at once (Holm, 1979)."""
    order = sorted(range(len(chances)), key=lambda index: chances[index])
    corrected, largest = [0.0] * len(chances), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, chances[index] * (len(chances) - rank)))
        corrected[index] = largest
    return tuple(corrected)


def _as_share(logs: Worsening) -> Worsening:
    with np.errstate(over="ignore"):
        estimate, low, high = np.expm1((logs.estimate, logs.low, logs.high)).tolist()
    return Worsening(estimate, low, high, logs.chance, logs.pairs)
