import itertools
import random

import pytest

from components.knapsack import Knapsack, Option


@pytest.mark.parametrize("seed", range(60))
def test_every_budget_equals_exhaustive_search(seed: int) -> None:
    generator = random.Random(seed)
    items = [
        [Option(generator.randint(0, 6), generator.uniform(0, 9)) for _ in range(generator.randint(1, 4))]
        for _ in range(5)
    ]
    knapsack = Knapsack(items, 30)
    for budget in range(31):
        choices = [
            choice
            for choice in itertools.product(*(range(len(options)) for options in items))
            if sum(options[i].cost for options, i in zip(items, choice, strict=True)) <= budget
        ]
        if not choices:
            with pytest.raises(ValueError, match="the cheapest costs"):
                knapsack.choose(budget)
            continue
        chosen = knapsack.choose(budget)
        assert sum(options[i].cost for options, i in zip(items, chosen, strict=True)) <= budget
        best = min(sum(options[i].score for options, i in zip(items, choice, strict=True)) for choice in choices)
        assert sum(options[i].score for options, i in zip(items, chosen, strict=True)) == pytest.approx(best)


def test_a_budget_beyond_the_largest_asked_for_is_that_one() -> None:
    assert Knapsack([[Option(2, 1.0), Option(1, 5.0)]], 3).choose(100) == (0,)


def test_an_item_with_no_option_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one option"):
        Knapsack([[]], 3)
