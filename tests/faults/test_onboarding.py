"""An onboarding that is killed again and again loses nothing, leaves nothing half, and ends with the bytes of one that was not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from faults import onboarding
from faults.tally import Outcome, Run, outcome_of


@pytest.fixture(scope="module")
def world() -> Iterator[onboarding.World]:
    with onboarding.world() as made:
        yield made


@pytest.mark.parametrize("case", onboarding.QUICK, ids=lambda case: case.__name__)
def test_an_onboarding_keeps_its_promises_when(
    case: Callable[[Any], Iterator[Run]], world: onboarding.World, outcomes: dict[str, Outcome]
) -> None:
    outcome = outcomes[f"onboard: {case.__name__}"] = outcome_of(case, world)
    assert outcome.runs > 0
    assert outcome.failures == []
