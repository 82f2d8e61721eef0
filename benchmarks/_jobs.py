"""What is compared: every contender with every checkpoint that it takes."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import edge_targets
from benchmarks._processes import ContenderError
from benchmarks._subnets import FULL
from benchmarks.contenders import OTHERS, Contender
from components.progress import say
from edge_targets._target import PackageError

_FLOATS = ("fp32", "fp16", "bf16")


@dataclass
class Job:
    """One contender with one checkpoint, and what is known of it so far."""

    contender: Contender
    shape: str
    checkpoint: Path
    cannot_run: str | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    rounds: list[dict[str, Any]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.contender.name}-{self.shape}"

    @property
    def failed(self) -> str | None:
        reason: str | None = self.figures.get("failed")
        return reason

    def median(self, what: str) -> float | None:
        return statistics.median(one[what] for one in self.rounds) if self.rounds else None

    @contextmanager
    def keeping_its_failure(self) -> Iterator[None]:
        """What goes wrong with one contender is its own: said, kept as its figure, and the others go on."""
        try:
            yield
        except (ContenderError, PackageError) as error:
            self.figures["failed"] = str(error)
            say(f"{self.name}: {error}")


def jobs(models: Mapping[str, Path], wanted: Sequence[str]) -> list[Job]:
    """Every contender on the full base; of ours the usual quantization on each subnet too. `wanted` are parts of names."""
    found = [Job(contender, FULL, models[FULL]) for contender in OTHERS]
    families = set()
    for name in edge_targets.names():
        target = edge_targets.load(name)
        if target.family in families:
            continue
        families |= {target.family} - {None}
        for quantization in target.quantizations:
            if quantization.name in _FLOATS:
                continue
            contender = Contender("ours", f"{name}-{quantization.name}", title=f"{name}, {quantization.name}")
            usual = quantization == target.quantizations[0]
            shapes = models if usual else {FULL: models[FULL]}
            found += [Job(contender, shape, folder, target.cannot_run_here) for shape, folder in shapes.items()]
    chosen = [job for job in found if not wanted or any(part in job.name for part in wanted)]
    if not chosen:
        raise SystemExit(
            f"nothing is called like {', '.join(wanted)}; there are {', '.join(job.name for job in found)}"
        )
    return chosen
