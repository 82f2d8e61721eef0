"""What a package really does, taken once and kept; and whether that is good enough to be published.

A package that only its device runs is inspected instead, and its point is predicted: quality then is not known.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import edge_targets
from components.frontier import Point
from components.kept import keep, kept
from edge_targets._device import facts
from edge_targets._device.bench import host
from edge_targets._half import LARGEST
from flows.bases import Declared, parameters
from flows.choosing import TOO_FAR, Choice, verification
from flows.data import revision
from flows.packaging import build_key, checkpoint_for, package_for, package_key
from flows.settings import settings
from flows.work import JobError, key_of, run_apart, undisturbed

_FLOAT_ARGUMENTS = 2
"""Of a measurement beside its float subnet: the option and the checkpoint's folder."""


class NoNumberError(JobError):
    """A package that answers with what is no number: too far from its float subnet to be a point among others."""


def examine(base: Declared, choice: Choice) -> tuple[Point, dict[str, Any]]:
    """The package's point and all that is known of it; raises NoNumberError, and JobError where it cannot be measured."""
    if edge_targets.load(choice.target).cannot_run_here is None:
        figures = measure_package(base, choice)
        if not math.isfinite(perplexity := figures["perplexity"]["value"]):
            raise NoNumberError(f"{TOO_FAR}: its perplexity is {perplexity}")
        return point_of(str(choice.shape), choice.quantization, figures), figures
    figures = inspection(choice.target, package_for(base, choice), package_key(base, choice))
    return predicted_point(choice, figures["size_mb"]), figures


def measure_package(base: Declared, choice: Choice) -> dict[str, Any]:
    """The package's figures, taken once a family's package, data revision and settings."""
    figures = measurement(
        base,
        choice.target,
        package_for(base, choice),
        build_key(base, choice),
        ["--checkpoint", str(checkpoint_for(base, choice.shape))],
    )
    return {**figures, "target": choice.target}


def is_measured(base: Declared, choice: Choice) -> bool:
    """Whether `measure_package` would find everything done."""
    return kept(_measurement_file(base, build_key(base, choice), _FLOAT_ARGUMENTS)) is not None


def measured_names() -> set[tuple[str, str]]:
    """(shape, quantization) of all that was ever measured in this workspace, of any base and from any supernet."""
    found = set()
    for path in (settings().cache / "measurements").glob("*.json"):
        figures = kept(path)
        if figures is not None and "shape" in figures:
            found.add((figures["shape"], figures["quantization"]))
    return found


_LIMITS = (
    ("top_1", "min_top_1", 1),
    ("kl", "max_kl", -1),
    ("perplexity_ratio", "max_perplexity_ratio", -1),
    ("greedy", "min_greedy", 1),
)


def refusal(choice: Choice, package: Path, figures: Mapping[str, Any]) -> str | None:
    """Why a package is not what was predicted of it, so that it is not published; None where it is.

    How close it is to its float subnet is asked of what could run here.
    """
    close, limits = figures.get("agreement", {}), verification(choice.quantization)
    found = [
        f"{name} {close[name]:.3g} ({'at least' if sign > 0 else 'at most'} {limits[limit]:g})"
        for name, limit, sign in _LIMITS
        if name in close and not sign * close[name] >= sign * limits[limit]  # nor is what is no number
    ]
    if found:
        return f"{TOO_FAR}: {', '.join(found)}"
    largest = close.get("largest_activation", 0.0)
    if edge_targets.load(choice.target).half_floats and not largest <= LARGEST:
        return f"computes activations of {largest:.3g}, and the device's float16 ends at 65504"
    held_mb = sum(facts.read(package)["memory_mb"].values())
    if held_mb > choice.max_memory_mb:
        return f"takes {held_mb:.0f} MB with a full context, over {choice.max_memory_mb:g}"
    return None


def measurement(base: Declared, target: str, package: Path, key: str, arguments: Sequence[str] = ()) -> dict[str, Any]:
    """Run `edge_targets measure` on a package, where no measurement of it is kept."""
    numbers = parameters()["measure"]
    options = [part for name, value in numbers.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    command = ["measure", target, "--package", str(package), "--evaluation", str(base.artifacts / "data"), *options]
    return _once(_measurement_file(base, key, len(arguments)), [*command, *arguments], f"measuring {target}")


def _once(place: Path, arguments: Sequence[str], what: str) -> dict[str, Any]:
    """What is kept at `place`, or what these arguments of `edge_targets` give, one at a time so that nothing disturbs the clock."""
    with undisturbed():
        figures: dict[str, Any] | None = kept(place)
        out = place.with_suffix(".fresh")
        if figures is None:
            run_apart([*arguments, "--out", str(out)], what)
            figures = json.loads(out.read_text())
            keep(place, figures)
        out.unlink(missing_ok=True)
        return figures


def _measurement_file(base: Declared, key: str, arguments: int) -> Path:
    """Where a package's figures are kept: those of this data, these settings and this machine."""
    facts = {
        "package": key,
        "data": revision("data", base),
        "numbers": parameters()["measure"],
        "arguments": arguments,
        "host": host(),
    }
    return settings().cache / "measurements" / f"{key_of(facts)}.json"


def inspection(target: str, package: Path, key: str) -> dict[str, Any]:
    """Run `edge_targets inspect` on a package; raises JobError with what is wrong with it."""
    place = settings().cache / "measurements" / f"{key_of({'package': key, 'inspected': target})}.json"
    return _once(place, ["inspect", target, "--package", str(package)], f"inspecting {target}")


def reference(base: Declared, base_folder: Path) -> dict[str, Any]:
    """Quality of the full float model on the same text and questions."""
    place = settings().cache / "measurements"
    key = key_of({"base": base.fingerprint, "data": revision("data", base)})
    command = ["reference", "--checkpoint", str(base_folder), "--evaluation", str(base.artifacts / "data")]
    return _once(place / f"{key}.json", command, "measuring the full model")


def point_of(shape: str, quantization: str, figures: dict[str, Any]) -> Point:
    return Point(
        shape=shape,
        quantization=quantization,
        perplexity=figures["perplexity"]["value"],
        accuracy=figures["accuracy"]["value"],
        accuracy_interval=tuple(figures["accuracy"]["interval"]),
        ttft_ms=figures["latency"]["ttft_ms"],
        tpot_ms=figures["latency"]["tpot_ms"],
        memory_mb=figures["latency"]["peak_memory_mb"],
        size_mb=figures["size_mb"],
        measured_on=figures["measured_on"],
    )


def predicted_point(choice: Choice, size_mb: float) -> Point:
    """What the device's figures say of the chosen candidate."""
    (cost,) = (verdict.candidate.cost for verdict in choice.verdicts if verdict.reason == "chosen")
    return Point(
        shape=str(choice.shape),
        quantization=choice.quantization,
        perplexity=None,
        accuracy=None,
        accuracy_interval=None,
        ttft_ms=cost.ttft_ms,
        tpot_ms=cost.tpot_ms,
        memory_mb=cost.memory_mb,
        size_mb=size_mb,
        measured_on="predicted",
    )
