"""A profile of `params.yaml`, each part as the stage that computes with it takes it; imports what stages import."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from components.data import DataSettings
from components.finetune import FinetuneSettings
from components.selection import SelectionSettings
from components.shape import ShapeSpace, depths_of
from components.smol import AdapterSettings
from components.strict import checked, mapping, part

_ANY_DEPTH = {"min_depth": 1}
"""The smallest depth follows from the base."""


@dataclass(frozen=True)
class SupernetNumbers:
    depths_percent: Sequence[int]
    widths_percent: Sequence[int]
    adapters: AdapterSettings
    finetune: FinetuneSettings

    def __post_init__(self) -> None:
        ShapeSpace(depths_of(100, self.depths_percent), tuple(self.widths_percent))


@dataclass(frozen=True)
class Profile:
    precision: Literal["auto", "float32", "bfloat16"]
    data: DataSettings
    selection: SelectionSettings
    supernet: SupernetNumbers


def check_profile(numbers: Any, where: str) -> None:
    """Raise SlipError for what any of the stages would stumble over, hours later perhaps."""
    selection = mapping(part(numbers, "selection", where), f"{where}.selection")
    checked(Profile, {**numbers, "selection": {**selection, **_ANY_DEPTH}}, where)
