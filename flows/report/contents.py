"""What the registered files themselves hold for people: a supernet's curve and selection, a package's memory, answers by task."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_targets._device import facts
from flows import reference
from flows.report import intervals
from flows.report.record import Curve, Estimate, Full, Task
from registry import naming
from registry.errors import NotFoundError, RefusedError, SignatureError
from registry.manifest import Manifest
from registry.store import PRODUCTION, Store, Version

_MOST_BYTES = 64 << 20
"""Of one file that is read for a report; a training of a million steps stays under it."""


@dataclass(frozen=True)
class Supernet:
    """What the registered supernet holds for people: its training curve and what each shape keeps."""

    version: Version
    selection: Mapping[str, Any]
    curves: tuple[Curve, ...]
    full: Mapping[str, Any] | None


def supernet_of(registry: Store, model: str) -> Supernet | None:
    """The one in production; None where only packages are registered."""
    try:
        version = registry.resolve(naming.supernet_model(model), PRODUCTION)
        manifest = registry.manifest(version)
    except (NotFoundError, SignatureError):
        return None
    with tempfile.TemporaryDirectory() as folder:
        selection, curve = (
            json.loads(_bring(registry, version, manifest, name, Path(folder)).read_text())
            for name in ("selection.json", "curve.json")
        )
    return Supernet(version, selection, _curves(curve), reference.of(registry, version))


def _curves(curve: Mapping[str, Any]) -> tuple[Curve, ...]:
    points: dict[str, list[tuple[int, float]]] = {}
    for report in curve["validation"]:
        for shape, perplexity in report["perplexity"].items():
            points.setdefault(shape, []).append((report["step"], perplexity))
    return tuple(Curve(shape, tuple(sorted(found))) for shape, found in points.items())


def full_of(figures: Mapping[str, Any]) -> Full:
    accuracy = figures["accuracy"]
    return Full(
        perplexity=figures["perplexity"]["value"],
        accuracy=Estimate(accuracy["value"], tuple(accuracy["interval"])),
        questions=len(accuracy["correct"]),
        tasks=tasks_of(accuracy),
    )


def tasks_of(accuracy: Mapping[str, Any]) -> tuple[Task, ...]:
    """Answers by task where the measurement says which is whose, else all of them together."""
    correct = accuracy.get("correct", [])
    if not correct:
        return ()
    names = accuracy.get("tasks", ["all questions"] * len(correct))
    by_task: dict[str, list[bool]] = {}
    for name, right in zip(names, correct, strict=True):
        by_task.setdefault(name, []).append(right)
    return tuple(
        Task(name, sum(answers), len(answers), intervals.accuracy(answers)) for name, answers in sorted(by_task.items())
    )


def _bring(registry: Store, version: Version, manifest: Manifest, name: str, folder: Path) -> Path:
    entry = next((entry for entry in manifest.files if entry.path == name), None)
    if entry is None:
        raise NotFoundError(f"{version.registered_model} version {version.version} has no {name}; publish it again")
    if entry.size > _MOST_BYTES:
        raise RefusedError(f"{name} of {version.registered_model} has {entry.size} bytes; {_MOST_BYTES} are taken here")
    with registry.reaching():
        registry.artifacts(version.source).file(entry, folder)
    return folder / name


def package_of(registry: Store, version: Version, manifest: Manifest) -> Mapping[str, Any]:
    """`package.json` of a version, checked like any file that is pulled."""
    with tempfile.TemporaryDirectory() as folder:
        _bring(registry, version, manifest, facts.PACKAGE_FILE, Path(folder))
        return facts.read(Path(folder))
