"""What a report says, as values: everything that the page, the charts and the figures for other tools are made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from components.frontier import MeasuredOn
from flows.lineage import Step
from registry.store import CANDIDATE, PREVIOUS, PRODUCTION

KINDS: tuple[MeasuredOn, ...] = ("device", "host", "predicted")
ALIASES = (PRODUCTION, CANDIDATE, PREVIOUS)
"""Those that a report looks at, the most wanted first."""
Status = Literal["good", "bad", "unclear"]


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval; None where there is too little to say."""

    value: float
    interval: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.interval is not None and not self.interval[0] <= self.value <= self.interval[1]:
            raise ValueError(f"an interval holds its figure, got {self.value} outside of {self.interval}")


@dataclass(frozen=True)
class Task:
    """One set of questions, and how many of them were answered rightly."""

    name: str
    right: int
    asked: int
    share: Estimate


@dataclass(frozen=True)
class Full:
    """The full float model, measured on the same text and questions."""

    perplexity: float
    accuracy: Estimate
    questions: int
    tasks: tuple[Task, ...]


@dataclass(frozen=True)
class Spot:
    """One artifact, or one that was only predicted, as a place in the plane of quality and time.

    Quality is None where nothing could run it.
    """

    shape: str
    quantization: str
    measured_on: MeasuredOn
    tpot_ms: Estimate
    ttft_ms: Estimate
    memory_mb: float
    size_mb: float | None
    perplexity: Estimate | None
    accuracy: Estimate | None
    machine: Literal["device", "host"] = "device"
    """Whose milliseconds and megabytes these are where they were predicted."""
    version: str | None = None
    """None where it was not published."""
    aliases: tuple[str, ...] = ()
    undominated: bool = False
    """Whether nothing measured alike is as good in perplexity, time and memory, and better in one."""
    same_text: bool = True
    """Whether its quality is of the text and questions that the full model was measured on."""

    @property
    def name(self) -> str:
        return f"version {self.version}" if self.version is not None else "not published"


@dataclass(frozen=True)
class Weighed:
    """A candidate: what was predicted of it, and why it was left or chosen."""

    shape: str
    quantization: str
    perplexity: float
    tpot_ms: float
    memory_mb: float
    machine: Literal["device", "host"]
    """Whose milliseconds and megabytes were predicted."""
    reason: str
    chosen: bool


@dataclass(frozen=True)
class Release:
    """A version that an alias points to, with all that its manifest says."""

    alias: str
    spot: Spot
    tasks: tuple[Task, ...]
    weights_mb: float
    kv_cache_mb: float
    context_length: int
    machine: str
    """Processor, cores and runtime that its times are of; empty where it was not measured."""
    data_revision: str
    """Of the text and questions that its quality is of."""
    lineage: tuple[Step, ...]
    considered: tuple[Weighed, ...]
    """Best first, perplexity on validation text; empty where the choice was not kept."""


@dataclass(frozen=True)
class TargetReport:
    """One target: its releases by alias, and every place in its plane."""

    name: str
    device: str
    releases: tuple[Release, ...]
    spots: tuple[Spot, ...]
    """Fastest first."""
    explored: tuple[Weighed, ...] = ()
    """What a search left off the frontier, with the reason; perplexity on the evaluation text."""
    left_out: tuple[str, ...] = ()
    """What is not in the plane, with the reason."""

    @property
    def shown(self) -> Release | None:
        """What devices get: production, or the first there is."""
        return next((one for one in self.releases if one.alias == PRODUCTION), next(iter(self.releases), None))

    def release(self, alias: str) -> Release | None:
        return next((one for one in self.releases if one.alias == alias), None)


@dataclass(frozen=True)
class DrawnLayer:
    """A layer of the base in a shape; `ffn` is the share of its neurons that is kept."""

    attention: bool
    ffn: float

    @property
    def gone(self) -> bool:
        return not self.attention and self.ffn == 0


@dataclass(frozen=True)
class DrawnShape:
    """A shape, layer by layer, and who is released with it."""

    shape: str
    layers: tuple[DrawnLayer, ...]
    used_by: tuple[str, ...]


@dataclass(frozen=True)
class Curve:
    """Held-out perplexity of one shape while the supernet was trained, by step."""

    shape: str
    perplexity: tuple[tuple[int, float], ...]

    def __post_init__(self) -> None:
        if not self.perplexity:
            raise ValueError(f"the curve of {self.shape} has no point")


@dataclass(frozen=True)
class GateLine:
    """One figure of one artifact in a verdict of `amoeba check`."""

    what: str
    """The artifact, and which version was held against which."""
    figure: str
    """Empty where the line is on the artifact as a whole."""
    baseline: str
    now: str
    worse: str
    """By how much, with its interval."""
    allowed: str
    verdict: str
    status: Status


@dataclass(frozen=True)
class Gate:
    """The outcome of `amoeba check`."""

    verdict: str
    status: Status
    lines: tuple[GateLine, ...]


@dataclass(frozen=True)
class Report:
    """Everything that is released of one base."""

    model: str
    licence: str | None
    source: str | None
    """Where the base comes from; None, like its licence, for a supernet that was published before that was noted."""
    full: Full | None
    targets: tuple[TargetReport, ...]
    shapes: tuple[DrawnShape, ...]
    curves: tuple[Curve, ...]
    supernet: tuple[Step, ...]
    """The lineage of the supernet in production; empty where none is registered."""
    gate: Gate | None = None
    made: str | None = None
    """When, as whoever made it says; nothing where nobody does, so that the same registry gives the same page."""
