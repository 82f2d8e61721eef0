"""The published frontier of a target: which versions are on it, every sample behind them, and what else was considered.

It is a document beside a version (`registry.attachments`). It says which versions to look at and how they measured when the
frontier was drawn; what a version is, its own manifest says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from components.frontier import Point
from registry.attachments import tag_of
from registry.store import Store, Version

KIND = "frontier"
FRONTIER_TAG = tag_of(KIND)
FORMAT_VERSION = 1


class FrontierError(ValueError):
    """A document that is no frontier this version can read; the message says why."""


@dataclass(frozen=True)
class Predicted:
    """What everything that was known but a candidate's own measurement says of it."""

    perplexity: float
    tpot_ms: float
    ttft_ms: float
    memory_mb: float
    machine: Literal["device", "host"]
    """Whose milliseconds and megabytes these are: the target's device by its figures, or the frontier's host by other runs."""

    def __post_init__(self) -> None:
        for name in ("perplexity", "tpot_ms", "ttft_ms", "memory_mb"):
            if not getattr(self, name) > 0:
                raise ValueError(f"a predicted {name} is a positive number, got {getattr(self, name)}")
        if self.machine not in ("device", "host"):
            raise ValueError(f"a prediction is for the device or for the host, got {self.machine!r}")


@dataclass(frozen=True)
class Samples:
    """All that a point's figures are made of."""

    ttft_ms: Mapping[int, tuple[float, ...]]
    """By the prompt's length in tokens, in the order they were taken."""
    tpot_ms: tuple[float, ...]
    nats: tuple[float, ...]
    """Mean negative log-likelihood of each window of the evaluation text."""
    correct: tuple[bool, ...]
    """Of each question, in the evaluation's order."""


@dataclass(frozen=True)
class Member:
    """A version on the frontier, measured on the frontier's host."""

    version: str
    point: Point
    predicted: Predicted
    samples: Samples

    def __post_init__(self) -> None:
        if self.point.measured_on == "predicted":
            raise ValueError(f"a member of a frontier was measured; {self.point.shape} was predicted")


@dataclass(frozen=True)
class Considered:
    """A candidate that is not on the frontier, with the reason."""

    shape: str
    quantization: str
    predicted: Predicted
    reason: str
    point: Point | None = None
    """What it measured, where it was built."""


@dataclass(frozen=True)
class Reference:
    """The full float model on the same text and questions."""

    perplexity: float
    accuracy: float
    accuracy_interval: tuple[float, float]
    nats: tuple[float, ...]
    correct: tuple[bool, ...]


@dataclass(frozen=True)
class Explored:
    """The frontier of one target."""

    model: str
    target: str
    data_revision: str
    supernet_revision: str
    host: Mapping[str, Any]
    """`edge_targets._device.bench.host`, with `threads` and `runtime`: times compare only where it is the same."""
    reference: Reference
    members: tuple[Member, ...]
    """Undominated, the fastest first."""
    considered: tuple[Considered, ...]
    """The rest, of least predicted perplexity first."""

    def to_json(self) -> bytes:
        return (json.dumps({"format_version": FORMAT_VERSION, **asdict(self)}, indent=1) + "\n").encode()

    @classmethod
    def from_json(cls, content: bytes) -> Explored:
        """Raises FrontierError for anything that `to_json` did not write."""
        try:
            value = json.loads(content)
            version = value.pop("format_version")
            if version != FORMAT_VERSION:
                raise FrontierError(f"the frontier is of format {version}; this version reads {FORMAT_VERSION}")
            return cls(
                **{
                    **value,
                    "reference": _reference(value["reference"]),
                    "members": tuple(map(_member, value["members"])),
                    "considered": tuple(map(_considered, value["considered"])),
                }
            )
        except FrontierError:
            raise
        except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
            raise FrontierError(f"this is no frontier: {type(error).__name__} {str(error)[:80]}") from error


def alias_of(shape: object, quantization: str) -> str:
    """What a member of a frontier is promoted to."""
    return f"{shape}-{quantization}"


def frontier_of(registry: Store, version: Version) -> Explored | None:
    """The latest frontier beside a version, usually the one in production; None where the target was never explored.

    Raises FrontierError for one that cannot be read, and what the registry raises.
    """
    content = registry.attached(version, KIND)
    return None if content is None else Explored.from_json(content)


def _reference(value: dict[str, Any]) -> Reference:
    own = {key: tuple(value[key]) for key in ("accuracy_interval", "nats", "correct")}
    return Reference(**{**value, **own})


def _member(value: dict[str, Any]) -> Member:
    samples = value["samples"]
    return Member(
        version=value["version"],
        point=Point.from_json(value["point"]),
        predicted=Predicted(**value["predicted"]),
        samples=Samples(
            ttft_ms={int(tokens): tuple(times) for tokens, times in samples["ttft_ms"].items()},
            tpot_ms=tuple(samples["tpot_ms"]),
            nats=tuple(samples["nats"]),
            correct=tuple(samples["correct"]),
        ),
    )


def _considered(value: dict[str, Any]) -> Considered:
    point = value["point"]
    read = {"predicted": Predicted(**value["predicted"]), "point": point and Point.from_json(point)}
    return Considered(**{**value, **read})
