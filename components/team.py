"""One process or many: each reads its share of a batch, and all step with the same averaged gradients.

Adapters are small and whole in every process. The frozen base is too, unless `accelerate launch --use_fsdp` asks for its
layers to be sharded: then each process holds its part of every layer, and gathers a layer only while it runs (FSDP2).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from components import family

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class Team:
    """The processes that train together, as `accelerate launch` started them; one alone where there is no accelerator."""

    accelerator: Accelerator | None = None

    @classmethod
    def found(cls) -> Team:
        """The team this process was launched in, by `accelerate launch` or `torchrun -m components.stages supernet ...`.

        Raises ValueError where the launched processes found no team: each would train on the whole batch.
        """
        launched = int(os.environ.get("WORLD_SIZE", "1"))
        if launched == 1:
            return ALONE
        from accelerate import Accelerator

        accelerator = Accelerator(cpu=torch.accelerator.current_accelerator(check_available=True) is None)
        if accelerator.num_processes != launched:
            raise ValueError(
                f"{launched} processes were launched, but accelerate made a team of {accelerator.num_processes}; "
                "look at the ACCELERATE_* variables, or train in one process"
            )
        return cls(accelerator)

    @property
    def device(self) -> torch.device:
        """What this process computes on: the machine's accelerator where it has one."""
        if self.accelerator is not None:
            return torch.device(self.accelerator.device)
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")

    @property
    def shards(self) -> bool:
        """Whether the frozen layers are spread over the team; then all must run every forward pass together."""
        return self.accelerator is not None and os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"

    def place(self, model: PreTrainedModel, trained: Iterable[Tensor]) -> None:
        """Move `model` to this process's device, its layers in shards where asked for; `trained` stays whole."""
        if self.shards:
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard

            whole = {tensor for tensor in trained if isinstance(tensor, torch.nn.Parameter)}
            mesh = init_device_mesh(self.device.type, (torch.distributed.get_world_size(),))
            for layer in family.decoder_layers(model):
                # Said outright: a layer is a root, which FSDP otherwise leaves gathered after its forward.
                fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=whole)
        model.to(self.device)  # type: ignore[arg-type]

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
                # The gate stays on the processor, where NCCL reduces nothing.
                averaged: Any = self.accelerator.reduce(tensor.grad.to(self.device), reduction="mean")
                tensor.grad = averaged.to(tensor.device)


ALONE = Team()
