"""What every target is: a record of a device's figures and of functions that make and run its packages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from components.shape import AnyShape
from edge_targets._device.facts import PackageError
from edge_targets._machine import Suits

__all__ = ["Budget", "Device", "Grid", "Package", "PackageError", "PackageRequest", "Quantization", "Target"]


@dataclass(frozen=True)
class Device:
    """The figures latency and memory are predicted from; where they come from is said in the target's file."""

    machine: str
    """As its kernel calls it: `x86_64`, `aarch64`; on a phone or Jetson alike."""
    cores: int
    memory_mb: int
    bandwidth_gb_s: float
    """What one running model can read from memory, sustained."""
    int8_gops: float
    """Sustained integer multiply-adds, in 10^9 operations a second, all `cores` together."""


@dataclass(frozen=True)
class Budget:
    """What a device's user will accept; None is no limit but the device's own memory."""

    max_tpot_ms: float | None = None
    max_memory_mb: float | None = None
    max_tpot_percent: float | None = None
    """Of the time per token that the full shape takes here in the first quantization: suits a base of any size."""

    def limits(self, full_tpot_ms: float, device_memory_mb: float) -> tuple[float | None, float]:
        """(most milliseconds a token, most megabytes) for a base whose full shape takes `full_tpot_ms`."""
        given = [self.max_tpot_ms] if self.max_tpot_ms is not None else []
        if self.max_tpot_percent is not None:
            given.append(full_tpot_ms * self.max_tpot_percent / 100)
        allowed_mb = device_memory_mb if self.max_memory_mb is None else min(self.max_memory_mb, device_memory_mb)
        return min(given, default=None), allowed_mb


@dataclass(frozen=True)
class Grid:
    """Which codes and scales a runtime takes, for weights that are rounded on calibration text (`_rounding`)."""

    bits: int
    block: int
    """Inputs that share a scale."""
    positive: bool = False
    """Whether scales must be positive."""
    scales: Literal["float32", "float16", "bfloat16"] = "float32"
    """What the runtime keeps them in."""


@dataclass(frozen=True)
class Quantization:
    """One way to store weights: the average bits a weight takes, scales included, and what that costs."""

    name: str
    linear_bits: float
    embedding_bits: float
    perplexity_ratio: float = 1.0
    """Perplexity against float, as measured on SmolLM2-135M; a first guess for other bases."""
    top_1: float = 1.0
    """Share of tokens on which it agrees with float, measured likewise."""
    grid: Grid | None = None
    """How the layers' weights are rounded on calibration text; None where each is rounded by itself, or not at all."""


@dataclass(frozen=True)
class PackageRequest:
    """All that decides a package's bytes."""

    checkpoint: Path
    """A folder with the dense subnet in float32, its tokenizer and its licence: an ordinary Hugging Face one, or that of a
    mixed shape (`components.mixed`)."""
    shape: AnyShape
    quantization: str
    context_length: int
    calibration_WT: NDArray[np.int32] | None = field(default=None, compare=False, repr=False)
    """Text as token ids, [windows, tokens], for quantizations that are calibrated and for targets of float16."""


@dataclass(frozen=True)
class Package:
    """A folder of files made for one target; `package.json` in it says what the rest is."""

    folder: Path


@dataclass(frozen=True)
class Target:
    """One device family. `edge_targets.load(name)` returns the `TARGET` of the file of that name."""

    name: str
    title: str
    device: Device
    budget: Budget
    runtime: str
    """The distribution that runs the artifact, as pip names it: `onnxruntime`."""
    extra: str
    """The extra of pyproject.toml that installs what `package` needs."""
    quantizations: tuple[Quantization, ...]
    """The usual one first."""
    package: Callable[[PackageRequest, Path], Package]
    """Build into an empty folder; raises PackageError and promises nothing about the folder when it fails."""
    cached_value_bytes: int = 4
    """What one number of the KV cache takes."""
    half_floats: bool = False
    """Whether the device computes in float16 what lies between the layers."""
    environment: str | None = None
    """Whose exporter's pins disagree with ours: `requirements/<environment>.txt` is the environment that packages are made in."""
    ties: bool = True
    """Whether a tied embedding and head are one table in the package."""
    family: str | None = None
    """Targets of one family have packages that differ in the target's name alone: one is built and measured for all."""
    refuses: Callable[[AnyShape], str | None] = field(default=lambda shape: None)
    """Why this target cannot run a shape, or None when it can."""
    suits: Suits = field(default=lambda machine: None)
    """Why its packages do not run on a machine, or None when they do."""
    measured_on: str = ""
    """The runtime whose figures are a device's, where a package falls back on another: `TensorRT`."""
    runtime_modules: tuple[str, ...] = ()
    """Modules that must import for a package to run here; `amoeba doctor` looks for them."""
    cannot_run_here: str | None = None
    """Why no machine but the device runs its packages, or None where this one does."""
    inspect: Callable[[Path], Mapping[str, Any]] | None = None
    """What can be verified of a package that cannot run here; raises PackageError where it is not as it should be."""

    def quantization(self, name: str) -> Quantization:
        for known in self.quantizations:
            if known.name == name:
                return known
        offered = ", ".join(known.name for known in self.quantizations)
        raise ValueError(f"{self.name} has no quantization {name!r}; it offers {offered}")
