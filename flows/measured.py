"""What a device measured of a published package comes back into the registry: `predicted` and `host` become `device`."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import edge_targets
from components.frontier import Point
from edge_targets._device import bench
from edge_targets._device.machine import Machine
from edge_targets._target import Target
from flows import tracking
from registry.errors import OF_ONE_VERSION
from registry.manifest import Manifest
from registry.store import Store, Version

KIND = "measurement"
_MOST_BYTES = 1 << 20


class MeasurementError(ValueError):
    """A file of figures that the registry does not take; the message says why."""


@dataclass(frozen=True)
class Recorded:
    """Whose figures are now a device's, and what they were before."""

    version: Version
    before: Point
    after: Point
    host: str


def record(path: Path) -> Recorded:
    """Take the figures of `amoeba bench` or the package's `bench.py` to the version that they were measured on.

    Only samples are believed: medians are taken again. Raises MeasurementError for a file that is no such measurement,
    for another kind of machine than the target's, where no published version holds the very same model files, and where
    another prompt or answer was timed than the version's: times are of one length each.
    """
    content = _read(path)
    figures = _checked(content)
    registry = tracking.store()
    version = _measured_version(registry, figures)
    facts = registry.manifest(version).facts
    _check_asked(facts["measurement"], figures["latency"])
    before = Point.from_json(facts.get("point"))
    after = at_device(before, figures)
    registry.attach(version, KIND, content)
    return Recorded(version, before, after, figures["host"]["processor"])


def point_of(registry: Store, version: Version) -> Point | None:
    """A version's point, its time and memory a device's where one has measured it; None for a supernet."""
    point = registry.manifest(version).facts.get("point")
    if point is None:
        return None
    figures = figures_of(registry, version)
    published = Point.from_json(point)
    return published if figures is None else at_device(published, figures)


def figures_of(registry: Store, version: Version) -> dict[str, Any] | None:
    """What a device measured of a version, every sample; None where none has."""
    content = registry.attached(version, KIND)
    return None if content is None else _checked(content)


def at_device(point: Point, figures: dict[str, Any]) -> Point:
    """The point with a device's time and memory; quality stays as it was measured."""
    latency = figures["latency"]
    shortest = min(latency["ttft_ms_samples"], key=int)
    return replace(
        point,
        ttft_ms=statistics.median(latency["ttft_ms_samples"][shortest]),
        tpot_ms=statistics.median(latency["tpot_ms_samples"]),
        memory_mb=latency["peak_memory_mb"],
        measured_on="device",
    )


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise MeasurementError(
            f"{path} cannot be read ({error.strerror}); `amoeba bench MODEL --out FILE` writes the file that this takes"
        ) from error
    if len(content) > _MOST_BYTES:
        raise MeasurementError(
            f"{path} has more than {_MOST_BYTES} bytes; figures of `amoeba bench` have a few thousand"
        )
    return content


def _checked(content: bytes) -> dict[str, Any]:
    try:
        figures: dict[str, Any] = json.loads(content)
        if figures["format_version"] != bench.FORMAT_VERSION:
            raise MeasurementError(
                f"the figures are of format {figures['format_version']}; this version reads {bench.FORMAT_VERSION}"
            )
        latency = figures["latency"]
        if not latency["ttft_ms_samples"] or not all(length.isdecimal() for length in latency["ttft_ms_samples"]):
            raise MeasurementError(
                "the figures hold no time to the first token by the prompt's length; run bench again"
            )
        for samples in (latency["tpot_ms_samples"], *latency["ttft_ms_samples"].values()):
            if len(samples) < bench.FEWEST_RUNS:
                raise MeasurementError(f"a measurement has at least {bench.FEWEST_RUNS} runs, got {len(samples)}")
            _check_positive("a sample", *samples)
        _check_positive("peak_memory_mb", latency["peak_memory_mb"])
        target = edge_targets.load(str(figures["target"]))
        _check_device(target, Machine.from_json(figures["machine"]))
        if not figures["runs_on"].startswith(target.measured_on):
            raise MeasurementError(
                f"the figures are of {figures['runs_on'][:40]}, on which {target.name} runs where it must; wanted are those of "
                f"{target.measured_on}: bench says on the device why it is not used"
            )
        model_files = figures["model_files"]
        if not model_files or not isinstance(model_files, dict) or not isinstance(figures["host"]["processor"], str):
            raise MeasurementError("the figures name no model files, or no processor; run bench again")
    except (KeyError, TypeError, AttributeError, RecursionError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise MeasurementError(
            f"this is no file of `amoeba bench`: {type(error).__name__} {str(error)[:80]}"
        ) from error
    return figures


def _check_device(target: Target, machine: Machine) -> None:
    """What a machine says of itself decides; macOS and Windows do not say which instructions an x86 has, and are believed."""
    untold = machine.system in ("darwin", "win32") and machine.machine == target.device.machine == "x86_64"
    reason = None if untold else target.suits(machine)
    if reason:
        raise MeasurementError(f"the figures are of another device than {target.name}: {reason[:200]}")


def _check_positive(what: str, *values: Any) -> None:
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise MeasurementError(f"{what} is a positive number, got {str(value)[:40]!r}")


def _check_asked(published: Mapping[str, Any], latency: Mapping[str, Any]) -> None:
    """Time to first token grows with the prompt, and the time of each after it with what came before."""
    if "latency" in published:
        new_tokens, lengths = published["latency"]["new_tokens"], set(published["latency"]["ttft_ms_samples"])
    else:  # nothing ran here: what would have been asked
        from flows.bases import parameters

        new_tokens = int(parameters()["measure"]["new_tokens"])
        lengths = set(map(str, bench.prompt_lengths(published["package"]["context_length"], new_tokens)))
    found = latency.get("new_tokens"), set(latency["ttft_ms_samples"])
    if found != (new_tokens, lengths):
        raise MeasurementError(
            f"the figures are of {_asked(*found)}, wanted are those of {_asked(new_tokens, lengths)}: "
            f"run bench again with --new-tokens {new_tokens}"
        )


def _asked(new_tokens: Any, lengths: set[str]) -> str:
    return f"{str(new_tokens)[:20]} new tokens after prompts of {' and '.join(sorted(lengths, key=int))[:40]}"


def _measured_version(registry: Store, figures: dict[str, Any]) -> Version:
    """The newest version, of any base, whose model files for this target are these and no more: subnets share some."""
    for name in (name for name in registry.models() if name.endswith(f"--{figures['target']}")):
        for version in registry.versions(name):
            try:
                manifest = registry.manifest(version)
            except OF_ONE_VERSION:
                continue  # what no device takes cannot be what was measured
            if _model_files(manifest) == figures["model_files"]:
                return version
    raise MeasurementError(
        f"no published version for {figures['target']} holds the model that was measured; was it published elsewhere?"
    )


def _model_files(manifest: Manifest) -> dict[str, str]:
    """The digests of what `package.json` calls so: the publisher's figures name them, or what it inspected."""
    published = manifest.facts.get("measurement", {})
    named = published.get("package", published).get("model_files", ())
    return {entry.path: entry.sha256 for entry in manifest.files if entry.path in named}
