"""What a command names, looked up before Prefect's server is started for it: a misspelt name is told at once."""

from __future__ import annotations

from collections.abc import Sequence

import edge_targets
from components.base import check_source
from flows.bases import check_profile, declared


def check_onboarding(source: str, profile: str, targets: Sequence[str]) -> None:
    """Raises ValueError naming the nearest profile, target or base; whether a base is there is not asked."""
    check_profile(profile)
    check_targets(targets)
    check_source(source)


def check_building(model: str, target: str) -> None:
    """Raises ValueError naming the nearest target or declared base."""
    check_targets([target])
    declared(model)


def check_targets(targets: Sequence[str]) -> None:
    for target in targets:
        edge_targets.load(target)
