"""A device gets the old artifact or the new one, a publication run again ends well, and nothing is left that `gc` leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from faults import publishing
from faults.tally import Outcome, Run, outcome_of


@pytest.fixture(scope="module")
def world() -> Iterator[publishing.World]:
    with publishing.world() as made:
        yield made


@pytest.mark.parametrize("case", publishing.CASES, ids=lambda case: case.__name__)
def test_a_registry_keeps_its_promises_when(
    case: Callable[[Any], Iterator[Run]], world: publishing.World, outcomes: dict[str, Outcome]
) -> None:
    outcome = outcomes[f"publish: {case.__name__}"] = outcome_of(case, world)
    assert outcome.runs > 0
    assert outcome.failures == []
