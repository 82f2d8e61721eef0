"""Stage 1, depth: which layers to drop, by dynamic programming over the network itself (AmoebaLLM, section 4.1).

Walking from the deep end, at stage n the layer N-n joins the removable ones; from the shallow end, layer n-1 does.
d[n][m] is the best metric with m layers dropped among the n removable ones, S[n][m] the layers dropped:

    candidate = S[n-1][m-1] and layer N-n
    d[n][m]   = better of metric(candidate) and d[n-1][m]

It equals brute force where the metric is additive in layers; on a network it is a strong heuristic, no more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

Dropped = frozenset[int]
Metric = Callable[[Dropped, float], float]
"""(layers dropped, a value that is good enough to lose against) -> metric, less is better. The second number lets a
costly metric stop early: once it knows that it will exceed it, it may return any value above it."""


@dataclass(frozen=True)
class DepthTable:
    """best[m] is the metric with m layers dropped, dropped[m] which; best[0] is the full model's."""

    best: tuple[float, ...]
    dropped: tuple[Dropped, ...]

    def or_better(self, other: DepthTable) -> DepthTable:
        """The better of two tables, cell by cell."""
        rows = zip(self.best, self.dropped, other.best, other.dropped, strict=True)
        cells = [(a, mine) if a <= b else (b, theirs) for a, mine, b, theirs in rows]
        return DepthTable(tuple(best for best, _ in cells), tuple(dropped for _, dropped in cells))


def stages(layers: int, kept_last: int, most_dropped: int) -> Iterator[tuple[int, int]]:
    """(stage n, dropped m) of every evaluation, in order: N M - M (M - 1) / 2 of them, with N = layers - kept_last."""
    for stage in range(1, layers - kept_last + 1):
        for dropped in range(1, min(stage, most_dropped) + 1):
            yield stage, dropped


def choose_layers(
    layers: int,
    kept_last: int,
    most_dropped: int,
    metric: Metric,
    on_evaluation: Callable[[], None] = lambda: None,
    *,
    shallow_first: bool = False,
) -> DepthTable:
    """Fill the table for 0 to `most_dropped` layers; the last `kept_last` layers are never dropped.

    A prefix cache helps from the deep end; the other direction runs more layers and sometimes finds better ones.

    Raises ValueError when fewer layers are removable than are to be dropped.
    """
    removable = layers - kept_last
    if not 0 <= most_dropped <= removable:
        raise ValueError(f"{most_dropped} of {layers} layers cannot be dropped when the last {kept_last} are kept")
    none: Dropped = frozenset()
    best = [metric(none, float("inf"))] + [float("inf")] * most_dropped
    chosen: list[Dropped] = [none] * (most_dropped + 1)
    previous_best, previous_chosen = list(best), list(chosen)
    current = 0
    for stage, dropped in stages(layers, kept_last, most_dropped):
        if stage != current:
            previous_best, previous_chosen, current = list(best), list(chosen), stage
        candidate = previous_chosen[dropped - 1] | {stage - 1 if shallow_first else removable - stage}
        value = metric(candidate, previous_best[dropped])
        if value < previous_best[dropped]:
            best[dropped], chosen[dropped] = value, candidate
        on_evaluation()
    return DepthTable(tuple(best), tuple(chosen))


def of_least_score(scores: Sequence[float], count: int) -> Dropped:
    """The `count` layers of least one-block score, however much dropping more of them would seem to help."""
    return frozenset(sorted(range(len(scores)), key=scores.__getitem__)[:count])
