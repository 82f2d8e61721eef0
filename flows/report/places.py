"""What a version measured as a place in the plane of quality and time, and which places may stand in one plane."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from components.frontier import MeasuredOn, Point
from flows import explored, measured
from flows.report import intervals, words
from flows.report.record import ALIASES, Estimate, Spot
from registry.manifest import Manifest
from registry.store import Version


@dataclass(frozen=True)
class Text:
    """What quality is measured on, and how the full model did on each of its windows."""

    full_nats: Sequence[float] | None
    revision: str | None
    """None where no supernet says which."""


@dataclass(frozen=True)
class Seen:
    """A version, and what decides whom its figures may be compared with."""

    spot: Spot
    machine: str
    data_revision: str


def seen_of(version: Version, manifest: Manifest, device: Mapping[str, Any] | None, text: Text) -> Seen:
    point, figures = Point.from_json(manifest.facts["point"]), manifest.facts.get("measurement", {})
    if device is not None:
        point = measured.at_device(point, dict(device))
    timed = device or figures
    latency, revision = timed.get("latency"), str(manifest.lineage.get("data_revision", ""))
    same_text = text.revision in (None, revision)
    spot = Spot(
        shape=point.shape,
        quantization=point.quantization,
        measured_on=point.measured_on,
        tpot_ms=_of(point.tpot_ms, latency and latency["tpot_ms_samples"]),
        ttft_ms=_of(point.ttft_ms, latency and latency["ttft_ms_samples"][min(latency["ttft_ms_samples"], key=int)]),
        memory_mb=point.memory_mb,
        size_mb=point.size_mb,
        perplexity=_perplexity(point.perplexity, figures, text.full_nats if same_text else None),
        accuracy=_accuracy(point),
        version=version.version,
        aliases=tuple(alias for alias in version.aliases if alias in ALIASES),
        same_text=same_text,
    )
    return Seen(spot, _machine(timed.get("host", {}), latency, figures.get("runtime", {})), revision)


def _machine(host: Mapping[str, Any], latency: Mapping[str, Any] | None, runtime: Mapping[str, Any]) -> str:
    """Whatever times depend on beside the artifact; empty where nothing was timed."""
    if not host or latency is None:
        return ""
    return f"{host['processor']}, {words.count(latency['threads'], 'thread')}, {runtime.get('name')} {runtime.get('version')}"


def _of(value: float, samples: Sequence[float] | None) -> Estimate:
    """The figure as it was published, with the interval of its samples where they are its own."""
    if not samples:
        return Estimate(value)
    found = intervals.median(samples)
    return found if found.value == value else Estimate(value)


def _perplexity(value: float | None, figures: Mapping[str, Any], full_nats: Sequence[float] | None) -> Estimate | None:
    if value is None:
        return None
    nats = figures.get("perplexity", {}).get("nats")
    return intervals.perplexity(nats, full_nats) if nats else Estimate(value)


def _accuracy(point: Point) -> Estimate | None:
    return None if point.accuracy is None else Estimate(point.accuracy, point.accuracy_interval)


def unpublished(frontier: explored.Explored, text: Text) -> list[Seen]:
    """What a search measured and left, and what it only predicted for the machine that it measured on."""
    host = frontier.host
    threads = words.count(host["threads"], "thread")
    machine = f"{host.get('processor')}, {threads}, {_runtime(host.get('runtime'))}"
    same_text = text.revision in (None, frontier.data_revision)
    found = []
    for one in frontier.considered:
        if one.point is not None:
            spot = _bare(one.point)
        elif one.predicted.machine == "host":
            spot = _expected(one)
        else:
            continue  # another machine's milliseconds have no place beside these
        found.append(Seen(replace(spot, same_text=same_text), machine, frontier.data_revision))
    return found


def _runtime(runtime: Any) -> str:
    return f"{runtime['name']} {runtime['version']}" if isinstance(runtime, Mapping) else str(runtime)


def _expected(one: explored.Considered) -> Spot:
    return Spot(
        shape=one.shape,
        quantization=one.quantization,
        measured_on="predicted",
        tpot_ms=Estimate(one.predicted.tpot_ms),
        ttft_ms=Estimate(one.predicted.ttft_ms),
        memory_mb=one.predicted.memory_mb,
        size_mb=None,
        perplexity=Estimate(one.predicted.perplexity),
        accuracy=None,
        machine=one.predicted.machine,
    )


def _bare(point: Point) -> Spot:
    """A point of which only the figures are known."""
    return Spot(
        shape=point.shape,
        quantization=point.quantization,
        measured_on=point.measured_on,
        tpot_ms=Estimate(point.tpot_ms),
        ttft_ms=Estimate(point.ttft_ms),
        memory_mb=point.memory_mb,
        size_mb=point.size_mb,
        perplexity=None if point.perplexity is None else Estimate(point.perplexity),
        accuracy=_accuracy(point),
    )


def alike(seen: Sequence[Seen]) -> tuple[tuple[Spot, ...], tuple[str, ...]]:
    """Places that may stand in one plane, fastest first, and why the rest may not.

    Times compare only on one machine, that of the newest of each kind; quality only on the same text.
    """
    machines: dict[MeasuredOn, str] = {}
    kept, others = [], []
    for one in seen:
        spot = one.spot
        if not spot.same_text and spot.perplexity is not None:
            others.append(f"{spot.name}: its quality is of another text than the full model's")
        elif machines.setdefault(spot.measured_on, one.machine) != one.machine:
            others.append(f"{spot.name}: its times are of another machine ({one.machine})")
        else:
            kept.append(spot)
    ordered = sorted(_marked(kept), key=lambda spot: (spot.tpot_ms.value, spot.shape, spot.quantization))
    return tuple(ordered), tuple(others)


def _marked(spots: Sequence[Spot]) -> list[Spot]:
    """Each told whether anything measured alike dominates it."""

    def cost(spot: Spot) -> tuple[float, float, float] | None:
        return None if spot.perplexity is None else (spot.perplexity.value, spot.tpot_ms.value, spot.memory_mb)

    def beaten(spot: Spot, kind: MeasuredOn) -> bool:
        mine = cost(spot)
        others = [theirs for one in spots if one.measured_on == kind and (theirs := cost(one)) is not None]
        return mine is None or any(
            theirs != mine and all(a <= b for a, b in zip(theirs, mine, strict=True)) for theirs in others
        )

    return [replace(spot, undominated=not beaten(spot, spot.measured_on)) for spot in spots]
