"""Points of quality against cost, and the undominated ones among them. No torch."""

from __future__ import annotations

from collections.abc import Iterable
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
    def from_json(cls, value: Any) -> Point:
        """Raises ValueError for anything that `to_json` did not write."""
        try:
            interval = value["accuracy_interval"]
            return cls(**{**value, "accuracy_interval": interval and tuple(interval)})
        except (KeyError, TypeError) as error:
            raise ValueError(f"this is no point: {type(error).__name__} {str(error)[:80]}") from error


def undominated(points: Iterable[Point]) -> tuple[Point, ...]:
    """The frontier, fastest first."""
    every = list(points)
    return tuple(
        sorted((p for p in every if not any(q.dominates(p) for q in every)), key=lambda p: (p.tpot_ms, p.perplexity))
    )


def hypervolume(points: Iterable[tuple[float, float]], reference: tuple[float, float]) -> float:
    """The area between points (log time, loss), less is better in both, and a reference; what lies beyond that adds nothing.

    Zitzler and Thiele's measure (Multiobjective Optimization Using Evolutionary Algorithms, 1998) in two dimensions. With
    time as a logarithm a tenth is a tenth on any device.
    """
    area, ceiling = 0.0, reference[1]
    for time, loss in sorted(points):
        if time < reference[0] and loss < ceiling:
            area += (reference[0] - time) * (ceiling - loss)
            ceiling = loss
    return area
