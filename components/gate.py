"""Whether a candidate still holds against its baseline: three verdicts, with noise taken into account. No torch.

A figure has *regressed* where it is measured worse by more than its margin, and a difference like that would hardly come
of noise: p, corrected for all figures that are looked at together (Holm), is under the level of false alarms. It *holds*
where its upper bound, at the level of misses, is under the margin (non-inferiority). Between the two more has to be
measured. All figures must hold, so holding needs no correction: every one of them has passed its own test.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal

from components import paired
from components.evaluate import Perplexity
from components.frontier_loss import Member, frontier_worsening
from components.paired import Worsening, holm

Verdict = Literal["holds", "regressed", "inconclusive"]
Pairs = Literal["runs", "questions", "windows", "frontier rounds"]


@dataclass(frozen=True)
class Margins:
    """How much worse a figure may be before it counts; from `params.yaml`."""

    perplexity_percent: float
    accuracy_points: float
    latency_percent: float
    memory_percent: float
    frontier_percent: float
    drift_percent: float
    """For times that were not taken in turns but on other days, on the same machine."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not value > 0:
                raise ValueError(f"{name} is over 0, got {value}; a margin of nothing can never be shown to hold")


@dataclass(frozen=True)
class Levels:
    """How often a verdict may be wrong, as probabilities."""

    false_alarms: float
    """That one of two equal artifacts comes out as regressed."""
    misses: float
    """That a figure which is worse by all of its margin comes out as holding."""

    def shared_by(self, looks: int) -> Levels:
        """What each of several looks may take, so that all of them stay within (Bonferroni)."""
        return Levels(self.false_alarms / looks, self.misses / looks)


@dataclass(frozen=True)
class Evidence:
    """What one artifact did: a value for each window of text, each question and each run of a fresh process."""

    nats: tuple[float, ...]
    correct: tuple[bool, ...]
    ttft_ms: tuple[float, ...] = ()
    tpot_ms: tuple[float, ...] = ()
    memory_mb: tuple[float, ...] = ()

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Evidence:
        """JSON has no word for what is no number but null."""
        read: dict[str, Any] = {
            name: tuple(math.nan if one is None else one for one in given) for name, given in value.items()
        }
        return cls(**read)


@dataclass(frozen=True)
class Figure:
    """One figure of baseline and candidate, how much worse the candidate is, and what follows."""

    name: str
    baseline: float
    candidate: float
    worsening: Worsening
    margin: float
    """In the worsening's unit, a share: 0.05 is 5 %, or 5 points of accuracy."""
    chance: float
    """The worsening's p after Holm's correction."""
    verdict: Verdict
    pairs_of: Pairs

    @property
    def needed(self) -> int | None:
        """About how many pairs would settle an inconclusive figure."""
        return self.worsening.needed(self.margin) if self.verdict == "inconclusive" else None


Look = Callable[[set[Pairs] | None], tuple[Evidence, Evidence]]
"""Measures more of what is undecided, everything where that is None, and gives all that baseline and candidate did by then."""


_RUINED = 0.5
"""Perplexity so much larger is regressed by however few windows: texts differ in difficulty, reading one again does not."""


@dataclass(frozen=True)
class _Asked:
    name: str
    values: tuple[float, float]
    worsening: Worsening
    margin: float
    pairs_of: Pairs


def judge(
    baseline: Evidence,
    candidate: Evidence,
    margins: Margins,
    levels: Levels,
    *,
    in_turns: bool = True,
    frontiers: tuple[Sequence[Member], Sequence[Member]] | None = None,
) -> tuple[Figure, ...]:
    """Every figure that both have. Runs are pairs where they were taken `in_turns`, else two samples of one machine."""
    asked = [
        *_quality(baseline, candidate, margins, levels.misses),
        *_cost(baseline, candidate, margins, levels.misses, in_turns),
    ]
    if frontiers is not None:
        before, after, worsening = frontier_worsening(*frontiers, levels.misses)
        asked.append(_Asked("frontier", (before, after), worsening, margins.frontier_percent / 100, "frontier rounds"))
    corrected = holm([one.worsening.chance for one in asked])
    return tuple(
        Figure(
            one.name,
            *one.values,
            one.worsening,
            one.margin,
            chance,
            _verdict(one.worsening, one.margin, chance, levels.false_alarms),
            one.pairs_of,
        )
        for one, chance in zip(asked, corrected, strict=True)
    )


def decide(
    looks: Sequence[Look],
    margins: Margins,
    levels: Levels,
    *,
    in_turns: bool = True,
    frontiers: tuple[Sequence[Member], Sequence[Member]] | None = None,
) -> tuple[Figure, ...]:
    """Look after look until every figure is decided, each measuring more of what was not; `levels` are of one look.

    Frontiers are timed before the first look, and no look times them again.
    """
    figures: tuple[Figure, ...] = ()
    for look in looks:
        undecided = {figure.pairs_of for figure in figures if figure.verdict == "inconclusive"}
        if undecided == {"frontier rounds"}:  # taken once, before the first look
            break
        figures = judge(*look(undecided or None), margins, levels, in_turns=in_turns, frontiers=frontiers)
        if overall(figures) != "inconclusive":
            break
    return figures


def overall(figures: Sequence[Figure]) -> Verdict:
    """Regressed where any figure is; holds where all do, and there are any."""
    verdicts = {figure.verdict for figure in figures}
    if "regressed" in verdicts:
        return "regressed"
    return "holds" if verdicts == {"holds"} else "inconclusive"


def _quality(baseline: Evidence, candidate: Evidence, margins: Margins, level: float) -> list[_Asked]:
    perplexities = Perplexity(baseline.nats).value, Perplexity(candidate.nats).value
    shares = [statistics.fmean(side.correct) for side in (baseline, candidate)]
    read = paired.of_likelihoods(baseline.nats, candidate.nats, level)
    if read.estimate > _RUINED:
        read = replace(read, chance=0.0)
    answered = paired.of_answers(baseline.correct, candidate.correct, level)
    return [
        _Asked("perplexity", perplexities, read, margins.perplexity_percent / 100, "windows"),
        _Asked("accuracy", (shares[0], shares[1]), answered, margins.accuracy_points / 100, "questions"),
    ]


def _cost(baseline: Evidence, candidate: Evidence, margins: Margins, level: float, in_turns: bool) -> list[_Asked]:
    of_time = paired.of_ratios if in_turns else paired.of_days
    of_memory = paired.of_ratios if in_turns else partial(paired.of_days, apart=0.0)
    time_percent = margins.latency_percent if in_turns else margins.drift_percent
    asked = []
    for name, compare, percent in (
        ("ttft_ms", of_time, time_percent),
        ("tpot_ms", of_time, time_percent),
        ("memory_mb", of_memory, margins.memory_percent),
    ):
        before, after = getattr(baseline, name), getattr(candidate, name)
        if len(before) > in_turns and len(after) > 1:
            values = (statistics.median(before), statistics.median(after))
            asked.append(_Asked(name, values, compare(before, after, level), percent / 100, "runs"))
    return asked


def _verdict(worsening: Worsening, margin: float, chance: float, level: float) -> Verdict:
    if worsening.estimate > margin and chance < level:
        return "regressed"
    return "holds" if worsening.high < margin else "inconclusive"
