"""Intervals of a report against the slow obvious thing."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from flows.report import intervals
from flows.report.record import Estimate
from flows.report.scale import Scale


@pytest.mark.parametrize("count", range(6, 14))
def test_an_interval_of_a_median_holds_it_with_95_percent_and_no_narrower_pair_does(count: int) -> None:
    ordered = [float(index) for index in range(count)]
    found = intervals.median(ordered[::-1]).interval
    assert found is not None

    def holds(rank: int) -> float:
        """Every way that samples can fall below or above the true median, all alike likely."""
        ways = [sum(signs) for signs in itertools.product((0, 1), repeat=count)]
        return sum(rank < below < count - rank for below in ways) / len(ways)

    rank = ordered.index(found[0])
    assert found == (ordered[rank], ordered[count - 1 - rank])
    assert holds(rank) >= 0.95 > holds(rank + 1)


@pytest.mark.parametrize("samples", [[1.0], [1.0, 2.0, 3.0], [5.0, 1.0, 2.0, 4.0, 3.0]])
def test_too_few_samples_have_a_median_and_no_interval(samples: list[float]) -> None:
    assert intervals.median(samples) == Estimate(sorted(samples)[len(samples) // 2])


def test_a_perplexity_s_interval_is_of_the_paired_difference_from_the_full_model() -> None:
    full, given_nats = [2.7, 3.1, 3.9, 2.6], [2.75, 3.12, 4.02, 2.61]
    found = intervals.perplexity(given_nats, full)
    expected = stats.ttest_rel(given_nats, full).confidence_interval(0.95)
    middle = sum(given_nats) / 4 - sum(full) / 4
    assert found.interval is not None
    for end, difference in zip(found.interval, expected, strict=True):
        assert math.log(end / found.value) == pytest.approx(difference - middle)


@pytest.mark.parametrize("full", [None, [2.0], [2.0, 2.1, 2.2]])
def test_without_the_full_model_on_the_same_windows_there_is_no_interval(full: list[float] | None) -> None:
    assert intervals.perplexity([3.0, 3.0], full) == Estimate(math.exp(3.0))


@pytest.mark.parametrize(("right", "asked"), [(0, 8), (5, 8), (122, 200), (200, 200)])
def test_the_ends_of_an_accuracy_s_interval_are_where_a_test_just_does_not_reject(right: int, asked: int) -> None:
    found = intervals.accuracy([index < right for index in range(asked)])
    assert found.interval is not None
    for end in found.interval:
        assert abs(found.value - end) == pytest.approx(1.96 * math.sqrt(end * (1 - end) / asked), abs=1e-9)


@pytest.mark.parametrize("right", [True, False])
def test_an_interval_holds_its_share_where_all_answers_are_alike_however_many_there_are(right: bool) -> None:
    for asked in range(1, 400):
        found = intervals.accuracy([right] * asked)
        assert found.interval is not None
        assert (found.interval[1] if right else found.interval[0]) == pytest.approx(float(right), abs=1e-12)


def test_an_interval_that_does_not_hold_its_figure_is_refused() -> None:
    with pytest.raises(ValueError, match="an interval holds its figure, got"):
        Estimate(3.0, (1.0, 2.0))


@given(
    st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=8),
    st.booleans(),
)
def test_a_scale_holds_every_value_and_its_ticks_are_few_and_within(values: list[float], logarithmic: bool) -> None:
    scale = Scale.around(values, 0.0, 500.0, logarithmic=logarithmic)
    assert all(0 <= scale(value) <= 500 for value in values)
    assert [scale(value) for value in sorted(values)] == sorted(scale(value) for value in values)
    ticks = scale.ticks()
    assert 1 <= len(ticks) <= 7
    assert all(scale.low <= tick <= scale.high for tick in ticks)
    assert list(ticks) == sorted(set(ticks))
