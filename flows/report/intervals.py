"""95 % intervals of what a report shows, from the samples that the registry keeps."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit

from components.evaluate import wilson
from flows.report.record import Estimate

_LEVEL = 0.95


def median(samples: Sequence[float]) -> Estimate:
    """The median and the narrowest pair of samples, as far from both ends, that holds the true one with 95 %.

    By the sign test's binomial count, which asks nothing of the distribution (Thompson 1936); no interval for fewer than
    six samples, where even the smallest and the largest hold it with less.
    """
    ordered, count = sorted(samples), len(samples)
    outside = 0.0
    best = None
    for rank in range(count // 2):
        outside += 2 * math.comb(count, rank) / 2**count
        if 1 - outside < _LEVEL:
            break
        best = (ordered[rank], ordered[count - 1 - rank])
    return Estimate(statistics.median(ordered), best)


def perplexity(nats: Sequence[float], full_nats: Sequence[float] | None) -> Estimate:
    """Perplexity on a fixed text; its interval is of how it differs from the full model's on the same windows.

    Windows are far apart in difficulty, alike for every model, so the paired differences of their mean log-likelihoods are
    taken (Student's t): the interval is that of the ratio to the full model, times the full model's perplexity. None without
    the full model's own.
    """
    value = math.exp(statistics.fmean(nats))
    if full_nats is None or len(full_nats) != len(nats) or len(nats) < 2:
        return Estimate(value)
    differences = np.asarray(nats) - np.asarray(full_nats)
    error = float(differences.std(ddof=1)) / math.sqrt(len(differences))
    half = float(stdtrit(len(differences) - 1, (1 + _LEVEL) / 2)) * error
    return Estimate(value, (value * math.exp(-half), value * math.exp(half)))


def accuracy(correct: Sequence[bool]) -> Estimate:
    """Share of right answers with the interval that measurements have."""
    return Estimate(sum(correct) / len(correct), wilson(sum(correct), len(correct)))
