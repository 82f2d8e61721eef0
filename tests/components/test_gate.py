from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from components.frontier_loss import Member
from components.gate import Evidence, Figure, Levels, Margins, decide, judge, overall

MARGINS = Margins(
    perplexity_percent=2.0,
    accuracy_points=2.0,
    latency_percent=5.0,
    memory_percent=10.0,
    frontier_percent=3.0,
    drift_percent=25.0,
)
LEVELS = Levels(false_alarms=0.01, misses=0.01)


def _evidence(seed: int = 0, runs: int = 6, questions: int = 400, noise: float = 0.01) -> Evidence:
    """The same text and questions for every seed; time and memory of runs of their own."""
    items, times = np.random.default_rng(99), np.random.default_rng(seed)
    return Evidence(
        nats=tuple(items.normal(3, 0.3, 8).tolist()),
        correct=tuple((items.random(questions) < 0.6).tolist()),
        ttft_ms=tuple((150 * np.exp(times.normal(0, noise, runs))).tolist()),
        tpot_ms=tuple((6.5 * np.exp(times.normal(0, noise, runs))).tolist()),
        memory_mb=tuple((460 * np.exp(times.normal(0, 0.001, runs))).tolist()),
    )


def _named(figures: tuple[Figure, ...]) -> dict[str, Figure]:
    return {figure.name: figure for figure in figures}


def _scaled(values: tuple[float, ...], factor: float) -> tuple[float, ...]:
    return tuple(value * factor for value in values)


def test_the_same_artifact_holds() -> None:
    figures = judge(_evidence(1), _evidence(2), MARGINS, LEVELS)
    assert [figure.name for figure in figures] == ["perplexity", "accuracy", "ttft_ms", "tpot_ms", "memory_mb"]
    assert overall(figures) == "holds"


def test_noise_is_never_called_a_regression_more_often_than_the_level() -> None:
    alarms = [
        overall(judge(_evidence(2 * seed, noise=0.2), _evidence(2 * seed + 1, noise=0.2), MARGINS, LEVELS))
        for seed in range(200)
    ]
    assert alarms.count("regressed") <= 4
    assert alarms.count("inconclusive") > 150


@pytest.mark.parametrize("name", ["ttft_ms", "tpot_ms", "memory_mb"])
def test_a_figure_that_rose_by_more_than_its_margin_has_regressed(name: str) -> None:
    worse = replace(_evidence(2), **{name: _scaled(getattr(_evidence(2), name), 1.15)})
    figures = judge(_evidence(1), worse, MARGINS, LEVELS)
    assert overall(figures) == "regressed"
    assert [figure.name for figure in figures if figure.verdict == "regressed"] == [name]


@pytest.mark.parametrize("broken", [np.nan, np.inf, 5000.0])
def test_text_that_reads_as_no_number_has_regressed_and_hides_nothing_else(broken: float) -> None:
    before = _evidence(1)
    after = replace(_evidence(2), nats=(broken,) * len(before.nats), tpot_ms=_scaled(_evidence(2).tpot_ms, 1.5))
    found = {figure.name: figure.verdict for figure in judge(before, after, MARGINS, LEVELS)}
    assert (found["perplexity"], found["tpot_ms"], found["accuracy"]) == ("regressed", "regressed", "holds")
    assert overall(judge(after, before, MARGINS, LEVELS)) == "holds"


def test_a_frontier_that_stays_undecided_has_nothing_more_measured_for_it() -> None:
    def member(*times: float) -> Member:
        return Member(times, (3.0, 3.1))

    noisy = [member(5.0, 6.0, 4.0)], [member(6.0, 4.0, 5.5)]
    asked = []

    def look(undecided: set[str] | None) -> tuple[Evidence, Evidence]:
        asked.append(undecided)
        return _evidence(1), _evidence(2)

    figures = decide([look] * 3, MARGINS, LEVELS, frontiers=noisy)
    assert {figure.name: figure.pairs_of for figure in figures}["frontier"] == "frontier rounds"
    assert [figure.name for figure in figures if figure.verdict == "inconclusive"] == ["frontier"]
    assert asked == [None]


def test_what_is_worse_by_its_margin_holds_no_more_often_than_misses_may() -> None:
    held = 0
    for seed in range(200):
        worse = _evidence(2 * seed + 1, noise=0.02)
        worse = replace(worse, tpot_ms=_scaled(worse.tpot_ms, 1.05))
        figures = judge(_evidence(2 * seed, noise=0.02), worse, MARGINS, Levels(0.01, 0.05))
        held += _named(figures)["tpot_ms"].verdict == "holds"
    assert 0 < held <= 18


def test_a_certain_difference_within_the_margin_holds() -> None:
    slower = replace(_evidence(1), tpot_ms=_scaled(_evidence(1).tpot_ms, 1.02))
    figure = _named(judge(_evidence(1), slower, MARGINS, LEVELS))["tpot_ms"]
    assert figure.chance < 1e-6
    assert figure.verdict == "holds"


def test_text_read_worse_and_answers_lost_are_found_one_by_one() -> None:
    worse = replace(_evidence(2), nats=tuple(value + 0.05 for value in _evidence().nats))
    assert _named(judge(_evidence(1), worse, MARGINS, LEVELS))["perplexity"].verdict == "regressed"
    right = [index for index, correct in enumerate(_evidence().correct) if correct]
    lost = set(right[:20])
    wrong = replace(_evidence(2), correct=tuple(c and i not in lost for i, c in enumerate(_evidence().correct)))
    figure = _named(judge(_evidence(1), wrong, MARGINS, LEVELS))["accuracy"]
    assert figure.verdict == "regressed"
    assert figure.worsening.estimate == pytest.approx(0.05)


def test_what_is_undecided_says_how_much_would_decide_it() -> None:
    figures = _named(judge(_evidence(1, noise=0.1), _evidence(2, noise=0.1), MARGINS, LEVELS))
    assert figures["tpot_ms"].verdict == "inconclusive"
    needed = figures["tpot_ms"].needed
    assert needed is not None
    assert needed > 6
    assert figures["memory_mb"].needed is None


def test_times_that_were_not_taken_in_turns_are_judged_by_the_wider_margin() -> None:
    def of_tpot(times_slower: float) -> Figure:
        slower = replace(_evidence(2), tpot_ms=_scaled(_evidence(2).tpot_ms, times_slower))
        return _named(judge(_evidence(1), slower, MARGINS, LEVELS, in_turns=False))["tpot_ms"]

    assert [of_tpot(times).verdict for times in (1.0, 1.15, 1.6)] == ["holds", "inconclusive", "regressed"]
    assert of_tpot(1.0).margin == 0.25


def test_memory_is_the_same_on_any_day() -> None:
    larger = replace(_evidence(2), memory_mb=_scaled(_evidence(2).memory_mb, 1.05))
    memory = _named(judge(_evidence(1), larger, MARGINS, LEVELS, in_turns=False))["memory_mb"]
    assert (memory.verdict, memory.margin) == ("holds", 0.10)


def test_one_destroyed_window_of_eight_is_a_regression() -> None:
    destroyed = replace(_evidence(2), nats=(*_evidence(2).nats[:-1], 50.0))
    assert _named(judge(_evidence(1), destroyed, MARGINS, LEVELS))["perplexity"].verdict == "regressed"


def test_quality_alone_is_judged_where_no_time_was_taken() -> None:
    timeless = replace(_evidence(), ttft_ms=(), tpot_ms=(), memory_mb=())
    assert [figure.name for figure in judge(timeless, timeless, MARGINS, LEVELS)] == ["perplexity", "accuracy"]


def test_nothing_measured_is_no_proof() -> None:
    assert overall(()) == "inconclusive"


def test_a_margin_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="latency_percent is over 0, got 0"):
        replace(MARGINS, latency_percent=0)


def test_evidence_comes_back_from_json_as_it_was() -> None:
    import json
    from dataclasses import asdict

    assert Evidence.from_json(json.loads(json.dumps(asdict(_evidence())))) == _evidence()


def test_what_is_no_number_comes_back_from_json_as_such() -> None:
    assert math.isnan(Evidence.from_json({"nats": [None, 3.0], "correct": [True]}).nats[0])
