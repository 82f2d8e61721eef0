"""The same figures for other tools: metrics (MLflow, `dvc metrics`), rows of plots (`dvc plots`), Markdown (Prefect)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from components.files import replace_text
from flows.report import words
from flows.report.record import Report, Spot

FOLDER = "figures"
"""In a workspace, for git to keep: `dvc.yaml` names its three folders, which hold one file a base."""


def metrics(report: Report) -> dict[str, Any]:
    """Of the full model and of every release, by target and alias."""
    found: dict[str, Any] = {}
    if report.full is not None:
        found["full"] = {"perplexity": report.full.perplexity, "accuracy": report.full.accuracy.value}
    for target in report.targets:
        if target.releases:
            found[target.name] = {release.alias: _figures(release.spot) for release in target.releases}
    return found


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """`x86_avx2.production.tpot_ms` and its value."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", float(value)


def frontier_rows(report: Report) -> list[dict[str, Any]]:
    """A row for each place in the plane of quality and time."""
    return [
        {
            "target": target.name,
            "version": spot.name,
            "shape": spot.shape,
            "quantization": spot.quantization,
            "measured_on": spot.measured_on,
            **_figures(spot),
        }
        for target in report.targets
        for spot in target.spots
        if spot.perplexity is not None
    ]


def training_rows(report: Report) -> list[dict[str, Any]]:
    """A row for each shape and step."""
    return [
        {"shape": curve.shape, "step": step, "perplexity": perplexity}
        for curve in report.curves
        for step, perplexity in curve.perplexity
    ]


def write(report: Report, root: Path) -> None:
    """What `dvc metrics` and `dvc plots` read in the workspace `root`."""
    for name, content in (
        ("metrics", metrics(report)),
        ("frontier", frontier_rows(report)),
        ("training", training_rows(report)),
    ):
        replace_text(root / FOLDER / name / f"{report.model}.json", json.dumps(content, indent=1) + "\n")


def markdown(report: Report) -> str:
    """The releases as a table of Markdown; what a name holds cannot end a cell or become a tag."""
    rows = [
        "| target | as | shape | quantization | MB | perplexity | accuracy | ms a token | figures are |",
        "|---" * 9 + "|",
    ]
    for target in report.targets:
        for release in target.releases:
            spot = release.spot
            accuracy = "not measured" if spot.accuracy is None else words.percent(spot.accuracy.value)
            cells = (
                target.name,
                release.alias,
                spot.shape,
                spot.quantization,
                words.number(spot.size_mb),
                words.estimate(spot.perplexity),
                accuracy,
                words.number(spot.tpot_ms.value),
                spot.measured_on,
            )
            rows.append("| " + " | ".join(map(_cell, cells)) + " |")
    return "\n".join(rows) + "\n"


def _cell(said: str) -> str:
    return said.replace("&", "&amp;").replace("<", "&lt;").replace("|", "&#124;").replace("\n", " ")


def _figures(spot: Spot) -> dict[str, float]:
    known = {
        "perplexity": None if spot.perplexity is None else spot.perplexity.value,
        "accuracy": None if spot.accuracy is None else spot.accuracy.value,
        "tpot_ms": spot.tpot_ms.value,
        "ttft_ms": spot.ttft_ms.value,
        "memory_mb": spot.memory_mb,
        "size_mb": spot.size_mb,
    }
    return {name: value for name, value in known.items() if value is not None}
