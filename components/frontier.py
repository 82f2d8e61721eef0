"""Points of quality against cost, the undominated ones among them, and whether today's still hold. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

MeasuredOn = Literal["device", "host", "predicted"]


@dataclass(frozen=True)
class Point:
    """One artifact's quality and cost. `measured_on` says whose milliseconds and megabytes these are."""

    shape: str
    quantization: str
    perplexity: float | None
    """Quality is None where nothing could run the artifact: it is measured, never guessed."""
    accuracy: float | None
    accuracy_interval: tuple[float, float] | None
    ttft_ms: float
    """Time to first token after a prompt of 128 tokens."""
    tpot_ms: float
    """Time per output token after the first."""
    memory_mb: float
    size_mb: float
    measured_on: MeasuredOn

    def __post_init__(self) -> None:
        quality = (self.perplexity, self.accuracy, self.accuracy_interval)
        if None in quality and (self.measured_on != "predicted" or set(quality) != {None}):
            raise ValueError(f"a point measured on {self.measured_on} has its quality, got {quality}")
        for name in ("perplexity", "ttft_ms", "tpot_ms", "memory_mb", "size_mb"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"a point's {name} is a positive number, got {value}")

    def dominates(self, other: Point) -> bool:
        """No worse in perplexity, latency and memory, and better in one; raises ValueError across kinds of measurement."""
        if self.measured_on != other.measured_on:
            raise ValueError(f"a point measured on {self.measured_on} cannot be compared with {other.measured_on}")
        mine, theirs = ((p.known_perplexity, p.tpot_ms, p.memory_mb) for p in (self, other))
        return mine != theirs and all(a <= b for a, b in zip(mine, theirs, strict=True))

    @property
    def known_perplexity(self) -> float:
        """Raises ValueError where it was never measured."""
        if self.perplexity is None:
            raise ValueError(f"{self.shape} {self.quantization} is of unknown quality; measure it on its device")
        return self.perplexity

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Point:
        interval = value["accuracy_interval"]
        return cls(**{**value, "accuracy_interval": interval and tuple(interval)})


def undominated(points: Iterable[Point]) -> tuple[Point, ...]:
    """The frontier, fastest first."""
    every = list(points)
    return tuple(
        sorted((p for p in every if not any(q.dominates(p) for q in every)), key=lambda p: (p.tpot_ms, p.perplexity))
    )


@dataclass(frozen=True)
class Tolerances:
    """How much worse a point may be before it counts as regressed; from `params.yaml`."""

    perplexity_percent: float
    accuracy_points: float
    latency_percent: float
    memory_percent: float


@dataclass(frozen=True)
class Comparison:
    """One figure of one artifact, then and now."""

    figure: str
    baseline: float
    now: float
    allowed: float
    holds: bool


def compare(baseline: Point, now: Point, tolerances: Tolerances) -> tuple[Comparison, ...]:
    """Each figure against the most it may be (the least, for accuracy)."""
    if baseline.measured_on != now.measured_on:
        raise ValueError(f"the baseline was measured on {baseline.measured_on}, this run on {now.measured_on}")
    if baseline.accuracy is None or now.accuracy is None:
        raise ValueError("a point of unknown quality is no baseline; measure it on its device")
    rising = {
        "perplexity": tolerances.perplexity_percent,
        "ttft_ms": tolerances.latency_percent,
        "tpot_ms": tolerances.latency_percent,
        "memory_mb": tolerances.memory_percent,
    }
    comparisons = []
    for figure, percent in rising.items():
        before, after = getattr(baseline, figure), getattr(now, figure)
        allowed = before * (1 + percent / 100)
        comparisons.append(Comparison(figure, before, after, allowed, after <= allowed))
    least = baseline.accuracy - tolerances.accuracy_points / 100
    comparisons.append(Comparison("accuracy", baseline.accuracy, now.accuracy, least, now.accuracy >= least))
    return tuple(comparisons)
