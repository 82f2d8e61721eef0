"""Two processes train as one that reads the same batch in two parts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from components.team import ALONE

PROJECT = Path(__file__).parents[2]
SCRIPT = """
import sys
import torch
from dataclasses import replace
from safetensors.torch import save_file
from components.finetune import finetune
from components.team import Team
from test_finetune import SETTINGS, WINDOWS, supernet

processes, out = int(sys.argv[1]), sys.argv[2]
made, team = supernet(), Team.found()
team.place(made.model, made.trainable().values())
assert team.shards == any(type(p).__name__ == "DTensor" for p in made.model.parameters())
assert (team.accelerator.num_processes if team.accelerator else 1) == processes
with torch.no_grad():
    made.model(WINDOWS[:2])
assert team.shards == all(any(type(p).__name__ == "DTensor" for p in layer.parameters()) for layer in made.model.model.layers)
settings = replace(SETTINGS, steps=4, accumulate=2 // processes)
finetune(made, WINDOWS, settings, team=team)
if team.leads:
    save_file({name: tensor.detach().contiguous() for name, tensor in made.trainable().items()}, out)
"""


def trained_by(processes: int, folder: Path, **asked: str) -> dict[str, torch.Tensor]:
    script, out = folder / "train.py", folder / f"{processes}.safetensors"
    script.write_text(SCRIPT)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    path = os.pathsep.join(map(str, (PROJECT, PROJECT / "tests", Path(__file__).parent)))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **asked}
    command = [sys.executable, *(launch if processes > 1 else []), str(script), str(processes), str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return load_file(out)


def test_two_processes_step_like_one_that_reads_the_batch_in_two_parts(tmp_path: Path) -> None:
    one, two = trained_by(1, tmp_path), trained_by(2, tmp_path)
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-5)


def test_sharding_the_frozen_layers_changes_no_bit(tmp_path: Path) -> None:
    whole, sharded = trained_by(2, tmp_path), trained_by(2, tmp_path, ACCELERATE_USE_FSDP="true")
    assert whole.keys() == sharded.keys()
    assert all(torch.equal(sharded[name], tensor) for name, tensor in whole.items())


def test_processes_that_make_no_team_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import accelerate

    from components.team import Team

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(accelerate, "Accelerator", lambda cpu: SimpleNamespace(num_processes=1))
    with pytest.raises(ValueError, match="2 processes were launched, but accelerate made a team of 1"):
        Team.found()


def test_alone_a_batch_is_read_whole_and_gradients_are_left_as_they_are() -> None:
    assert ALONE.leads
    assert ALONE.share([3, 1, 2]) == [3, 1, 2]
    tensor = torch.ones(2, requires_grad=True)
    tensor.sum().backward()
    ALONE.average_gradients([tensor])
    assert torch.equal(tensor.grad, torch.ones(2))  # type: ignore[arg-type]


class OnItsDeviceAlone:
    """An accelerator that reduces only what is on its device, as NCCL does; `meta` stands for a device that is not here."""

    device = torch.device("meta")

    def reduce(self, tensor: torch.Tensor, reduction: str) -> torch.Tensor:
        assert reduction == "mean"
        if tensor.device != self.device:
            raise RuntimeError(f"No backend type associated with device type {tensor.device.type}")
        return torch.full_like(tensor, 3.0, device="cpu")


def test_gradients_of_what_stays_on_the_processor_are_averaged_on_the_accelerator() -> None:
    from components.team import Team

    tensor = torch.ones(2, requires_grad=True)
    tensor.sum().backward()
    Team(OnItsDeviceAlone()).average_gradients([tensor])  # type: ignore[arg-type]
    assert torch.equal(tensor.grad, torch.full((2,), 3.0))  # type: ignore[arg-type]


def test_a_batch_that_cannot_be_shared_evenly_is_refused() -> None:
    from components.team import Team

    team = Team(SimpleNamespace(num_processes=2, process_index=0, is_main_process=True))  # type: ignore[arg-type]
    assert team.share([4, 5, 6, 7]) == [4, 6]
    with pytest.raises(ValueError, match="3 windows cannot be shared by 2 processes"):
        team.share([1, 2, 3])
