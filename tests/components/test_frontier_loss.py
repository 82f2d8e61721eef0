from __future__ import annotations

import math

import numpy as np
import pytest

from components.frontier_loss import Member, frontier_worsening
from components.paired import of_ratios


def _frontier(worse: float = 0.0, slower: float = 1.0, seed: int = 0) -> list[Member]:
    """Three members in six rounds; whole rounds are slow, and every member with them."""
    generator = np.random.default_rng(seed)
    rounds = np.exp(generator.normal(0, 0.2, 6))
    windows = np.linspace(2.5, 3.5, 8)
    return [
        Member(tuple((time * slower * rounds).tolist()), tuple((windows + loss + worse).tolist()))
        for time, loss in ((4.0, 0.6), (6.0, 0.2), (9.0, 0.0))
    ]


def test_a_frontier_against_itself_lost_nothing_however_noisy_the_rounds() -> None:
    before, after, found = frontier_worsening(_frontier(), _frontier(), 0.01)
    assert before == after
    assert (found.low, found.estimate, found.high, found.chance) == (0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize("change", [{"slower": 1.1}, {"worse": 0.05}])
def test_a_slower_or_worse_frontier_lost_area_beyond_doubt(change: dict[str, float]) -> None:
    before, after, found = frontier_worsening(_frontier(), _frontier(**change), 0.01)
    assert before > after
    assert 0 < found.low <= found.estimate <= found.high
    assert found.chance < 0.001


def test_few_rounds_that_all_point_one_way_are_as_unsure_as_their_mean_ratio_is() -> None:
    """One member a side, so that the lost area is the lost time; Student's t on the ratios is the plain thing."""
    ratios = [0.01, 0.02, 0.15, 0.01, 0.12, 0.02]
    before = [5.0, 5.1, 4.9, 5.2, 5.0, 5.1]
    after = [time * math.exp(ratio) for time, ratio in zip(before, ratios, strict=True)]
    nats = tuple(np.linspace(2.5, 3.5, 8).tolist())
    _, _, found = frontier_worsening([Member(tuple(before), nats)], [Member(tuple(after), nats)], 0.02)
    plain = of_ratios(before, after, 0.02)
    assert found.low < 0 < found.estimate
    assert found.chance == pytest.approx(plain.chance, rel=0.25)
    assert found.chance > 0.03


def test_a_member_that_is_gone_is_lost_area() -> None:
    _, _, found = frontier_worsening(_frontier(), _frontier()[1:], 0.01)
    assert found.low > 0.05


def test_the_reference_stays_where_the_baseline_put_it() -> None:
    before, after, found = frontier_worsening(_frontier(), _frontier(slower=100.0), 0.01)
    assert before > math.log(2) ** 2
    assert after == 0.0
    assert found.estimate == 1.0


def test_members_of_other_sessions_are_refused() -> None:
    odd = [Member((1.0, 1.0), (3.0,) * 8)]
    with pytest.raises(ValueError, match="the same two or more runs and windows"):
        frontier_worsening(_frontier(), odd, 0.01)
