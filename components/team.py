"""One process or many: each reads its share of a batch, and all step with the same averaged gradients."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class Team:
    """The processes that train together, as `accelerate launch` started them; one alone where there is no accelerator."""

    accelerator: Accelerator | None = None

    @classmethod
    def found(cls) -> Team:
        """The team this process was launched in, by `accelerate launch` or `torchrun -m components.stages supernet ...`."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return ALONE
        from accelerate import Accelerator

        return cls(Accelerator())

    @property
    def leads(self) -> bool:
        """Whether this process writes what all have computed."""
        return self.accelerator is None or bool(self.accelerator.is_main_process)

    def share(self, batch: list[int]) -> list[int]:
        """This process's windows of a batch; raises ValueError when the batch cannot be shared evenly."""
        if self.accelerator is None:
            return batch
        processes = self.accelerator.num_processes
        if len(batch) % processes:
            raise ValueError(f"a batch of {len(batch)} windows cannot be shared by {processes} processes evenly")
        return batch[self.accelerator.process_index :: processes]

    def average_gradients(self, trained: Iterable[Tensor]) -> None:
        """Replace every gradient with the mean of all processes'; none of them waits for a gradient nobody has."""
        if self.accelerator is None:
            return
        for tensor in trained:
            if tensor.grad is not None:
                averaged: Any = self.accelerator.reduce(tensor.grad, reduction="mean")
                tensor.grad = averaged


ALONE = Team()
