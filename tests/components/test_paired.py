from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from components import paired

LEVEL = 0.01


def _pairs(count: int, worse: float, noise: float, seed: int = 0) -> tuple[list[float], list[float]]:
    """Runs in turns on a machine that grows slower: the drift is common to a pair, the noise is not."""
    generator = np.random.default_rng(seed)
    drift = 7 * np.exp(np.linspace(0, 0.5, count))
    first, second = (drift * np.exp(generator.normal(0, noise, count)) for _ in range(2))
    return first.tolist(), (second * (1 + worse)).tolist()


def test_a_mean_difference_is_what_scipys_paired_t_test_says() -> None:
    before, after = _pairs(9, 0.03, 0.02)
    found = paired.of_means(before, after, LEVEL)
    asked = stats.ttest_rel(after, before, alternative="greater")
    assert found.chance == pytest.approx(asked.pvalue)
    bounds = stats.ttest_rel(after, before).confidence_interval(1 - 2 * LEVEL)
    assert (found.low, found.high) == pytest.approx((bounds.low, bounds.high))


def test_separate_runs_are_what_scipys_welch_test_says() -> None:
    before, after = _pairs(7, 0.2, 0.1)
    found = paired.of_days(before, after[:5], LEVEL, apart=0)
    asked = stats.ttest_ind(np.log(after[:5]), np.log(before), equal_var=False, alternative="greater")
    assert found.chance == pytest.approx(asked.pvalue)
    bounds = stats.ttest_ind(np.log(after[:5]), np.log(before), equal_var=False).confidence_interval(1 - 2 * LEVEL)
    assert (found.low, found.high) == pytest.approx((math.expm1(bounds.low), math.expm1(bounds.high)))


def test_an_artifact_that_did_not_change_seldom_regresses_whatever_the_day() -> None:
    generator, level = np.random.default_rng(3), 0.02
    alarms = 0
    for _ in range(2000):
        was, today = (np.exp(generator.normal(0, 0.1, count)) for count in (1, 6))
        today *= np.exp(generator.normal(0, 0.08))
        found = paired.of_days(was.tolist(), today.tolist(), level)
        alarms += found.estimate > 0.25 and found.chance < level
    assert alarms / 2000 <= level


def test_a_machine_that_drifts_by_half_hides_no_tenth_from_pairs() -> None:
    before, after = _pairs(6, 0.10, 0.01)
    found = paired.of_ratios(before, after, LEVEL)
    assert found.low < 0.10 < found.high
    assert found.low > 0.05
    assert found.chance < 1e-4


def test_answers_are_what_an_exact_sign_test_of_the_changed_ones_says() -> None:
    before = [True] * 50 + [False] * 50
    after = [True] * 40 + [False] * 10 + [True] * 3 + [False] * 47
    found = paired.of_answers(before, after, LEVEL)
    assert found.estimate == pytest.approx(0.07)
    assert found.chance == pytest.approx(stats.binomtest(10, 13, alternative="greater").pvalue)
    assert found.low < 0.07 < found.high


def test_the_same_answers_are_no_worse_and_few_of_them_prove_little() -> None:
    few, many = (paired.of_answers([True, False] * count, [True, False] * count, LEVEL) for count in (10, 500))
    assert few.estimate == many.estimate == 0.0
    assert few.chance == many.chance == 1.0
    assert few.high > 0.05 > 0.01 > many.high


def test_answers_bounds_hold_the_truth_as_often_as_they_claim() -> None:
    generator, lost, won = np.random.default_rng(1), 0.06, 0.03
    missed = 0
    for _ in range(300):
        kind = generator.choice(3, size=400, p=[lost, won, 1 - lost - won])
        before, after = np.where(kind == 0, 1, 0), np.where(kind == 1, 1, 0)
        missed += (
            not paired.of_answers(before.astype(bool).tolist(), after.astype(bool).tolist(), 0.05).high > lost - won
        )
    assert missed / 300 < 0.08


@pytest.mark.parametrize("values", [[7.0, 7.0, 7.0], [0.1, 0.2, 0.3]])
def test_what_never_varies_is_certain(values: list[float]) -> None:
    same = paired.of_means(values, values, LEVEL)
    assert (same.low, same.estimate, same.high, same.chance) == (0.0, 0.0, 0.0, 1.0)
    worse = paired.of_means([0.0, 0.0], [1.0, 1.0], LEVEL)
    assert (worse.low, worse.high, worse.chance) == (1.0, 1.0, 0.0)


def test_one_pair_tells_nothing() -> None:
    for compare in (paired.of_ratios, paired.of_means):
        with pytest.raises(ValueError, match="got 1"):
            compare([1.0], [2.0], LEVEL)
    with pytest.raises(ValueError, match="two of today, got 1 and 1"):
        paired.of_days([1.0], [2.0], LEVEL)
    with pytest.raises(ValueError, match="got 1"):
        paired.of_answers([True], [False], LEVEL)


def test_holms_correction_is_the_published_step_down() -> None:
    assert paired.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert paired.holm([0.6, 0.5]) == (1.0, 1.0)
    assert paired.holm([]) == ()


def test_the_pairs_that_are_needed_would_be_enough() -> None:
    noise = 0.05
    before, after = _pairs(6, 0.0, noise)
    found = paired.of_ratios(before, after, LEVEL)
    assert found.high > 0.05
    wanted = found.needed(0.05)
    assert wanted is not None
    assert wanted > 6
    more = paired.of_ratios(*_pairs(4 * wanted, 0.0, noise), LEVEL)
    assert more.high < 0.05
    assert paired.of_means([1.0, 1.0], [1.0, 1.0], LEVEL).needed(0.05) == 2


@pytest.mark.parametrize("nats", [50.0, 8000.0])
def test_no_number_of_pairs_is_asked_for_that_nobody_could_measure(nats: float) -> None:
    before = [3.0, 3.1, 3.2, 2.9, 3.0, 3.1, 3.0, 3.2]
    assert paired.of_likelihoods(before, [*before[:-1], nats], LEVEL).needed(0.05) is None
