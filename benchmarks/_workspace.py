"""The base, data and selection that `amoeba onboard smollm2-135m` left in this workspace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from components.base import Base
from components.data import Data
from components.quiet import quiet_libraries
from components.selection import Selection
from components.stages import Stage


@dataclass(frozen=True)
class Workspace:
    base: Base
    data: Data
    selection_folder: Path
    supernet_folder: Path
    profile: str

    @classmethod
    def of(cls, name: str = "smollm2-135m", profile: str = "quick") -> Workspace:
        quiet_libraries()
        stage = Stage.of(name, profile)
        return cls(stage.base, Data.load(stage.data), stage.selection, stage.supernet, profile)

    def model(self, dtype: torch.dtype = torch.bfloat16) -> PreTrainedModel:
        return self.base.load(dtype)

    def selection(self) -> Selection:
        return Selection.load(self.selection_folder)

    @property
    def calibration_BT(self) -> Tensor:
        return torch.from_numpy(self.data.calibration_WT).long()

    def width_text_WT(self, windows: int) -> Tensor:
        """The text that widths are scored on."""
        return torch.from_numpy(self.data.train_WT).long()[:windows]

    @property
    def evaluation_windows(self) -> Sequence[Sequence[int]]:
        windows: Sequence[Sequence[int]] = self.data.evaluation_WT.tolist()
        return windows
