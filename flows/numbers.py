"""Every section of `params.yaml` held against what reads it, before any work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import edge_targets
from components.data import DataSettings
from components.gate import Margins
from components.strict import SlipError, checked, mapping, part
from edge_targets._measure import MeasureSettings
from flows.bases import parameters
from flows.effort import Effort

FILE = "params.yaml"


@dataclass(frozen=True)
class PackageSettings:
    """Numbers that decide a package."""

    context_length: int
    calibration_windows: int


@dataclass(frozen=True)
class Closeness:
    """How close to its float subnet a package must be to be published."""

    min_top_1: float
    max_kl: float
    max_perplexity_ratio: float
    min_greedy: float


_SECTIONS = {"package": PackageSettings, "measure": MeasureSettings, "gate": Effort, "tolerances": Margins}


def check_numbers(profile: str | None = None) -> None:
    """Raise SlipError for the first slip of any section, and of a profile in what is read before torch is.

    The rest of a profile is checked by the first of its stages.
    """
    values = parameters()
    for name, kind in _SECTIONS.items():
        checked(kind, part(values, name, FILE), f"{FILE}: {name}")
    _check_closeness(mapping(part(values, "verify", FILE), f"{FILE}: verify"))
    if profile is not None:
        numbers = values["profiles"][profile]
        checked(DataSettings, part(numbers, "data", f"{FILE}: profiles.{profile}"), f"{FILE}: profiles.{profile}.data")


def _check_closeness(limits: dict[str, Any]) -> None:
    default = part(limits, "default", f"{FILE}: verify")
    checked(Closeness, default, f"{FILE}: verify.default")
    known = {one.name for target in edge_targets.names() for one in edge_targets.load(target).quantizations}
    for quantization, own in limits.items():
        where = f"{FILE}: verify.{quantization}"
        if quantization not in {"default", *known}:
            raise SlipError(f"{where} is no quantization; there are {', '.join(sorted(known))}")
        checked(Closeness, {**default, **mapping(own, where)}, where)
