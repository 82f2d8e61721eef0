"""What a command names and the numbers it works with, looked at before Prefect's server is started for it."""

from __future__ import annotations

from collections.abc import Sequence

import edge_targets
from components.base import check_source
from flows.bases import check_profile, declared
from flows.numbers import check_numbers


def check_onboarding(source: str, profile: str, targets: Sequence[str]) -> None:
    """Raises ValueError naming the nearest profile, target or base, SlipError; whether a base is there is not asked."""
    check_profile(profile)
    _check_targets(targets)
    check_source(source)
    check_numbers(profile)


def check_building(model: str, target: str) -> None:
    """Raises ValueError naming the nearest target or declared base, SlipError."""
    _check_targets([target])
    check_declared(model)


def check_declared(model: str) -> None:
    """Raises UnknownNameError naming the nearest declared base, SlipError."""
    declared(model)
    check_numbers()


def _check_targets(targets: Sequence[str]) -> None:
    for target in targets:
        edge_targets.load(target)
