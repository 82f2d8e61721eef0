"""A reader sees the old artifact whole or the new one whole, a pull run again ends well, and nothing is left that grows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from faults import pulling
from faults.tally import Outcome, Run, outcome_of


@pytest.fixture(scope="module")
def world() -> Iterator[pulling.World]:
    with pulling.world() as made:
        yield made


@pytest.mark.parametrize("case", pulling.CASES, ids=lambda case: case.__name__)
def test_a_pull_keeps_its_promises_when(
    case: Callable[[Any], Iterator[Run]], world: pulling.World, outcomes: dict[str, Outcome]
) -> None:
    outcome = outcomes[f"pull: {case.__name__}"] = outcome_of(case, world)
    assert outcome.runs > 0
    assert outcome.failures == []
