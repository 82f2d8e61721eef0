"""The page: one HTML file with its style and drawings in it, no script, and a policy that lets it load nothing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from flows.report import curves, frontier, memory, shapes, words
from flows.report.changes import changes
from flows.report.record import Release, Report, TargetReport
from flows.report.svg import Picture

_TEMPLATES = Path(__file__).parent / "templates"
_STYLES = ("page.css", "chart.css")
FEW = 8
"""Rows of a table that are shown at once; a longer one is opened when it is wanted."""


@dataclass(frozen=True)
class Pictures:
    """Every drawing of a report."""

    targets: tuple[tuple[Picture, ...], ...]
    """Of each target, in the report's order."""
    shapes: tuple[Picture, ...]
    training: Picture | None
    memory: Picture | None

    @classmethod
    def of(cls, report: Report) -> Pictures:
        return cls(
            tuple(frontier.pictures(target, report.full) for target in report.targets),
            tuple(shapes.picture(shape) for shape in report.shapes),
            curves.picture(report.curves),
            memory.picture(report.targets),
        )

    @property
    def all(self) -> tuple[Picture, ...]:
        others = [one for one in (self.training, self.memory) if one is not None]
        return (*(one for target in self.targets for one in target), *self.shapes, *others)


def page(report: Report) -> str:
    """The whole page; the same report gives the same text."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names: dict[str, Callable[..., Any]] = {
        "number": words.number,
        "estimate": words.estimate,
        "span": words.span,
        "percent": words.percent,
        "share_span": words.share_span,
        "asked": words.asked,
        "layer_by_layer": words.layer_by_layer,
        "count": words.count,
    }
    environment.filters.update(names)
    style = "".join((_TEMPLATES / name).read_text() for name in _STYLES)
    layers = len(report.shapes[0].layers) if report.shapes else None
    return environment.get_template("report.html.j2").render(
        report=report,
        pictures=Pictures.of(report),
        style=Markup(style),  # noqa: S704 - our own files
        policy=_policy(style),
        sentences=_sentences(report, layers),
        shape_words=lambda shape: words.shape(shape, layers),
        changes=changes,
        why=_why,
        steps=sorted({step for curve in report.curves for step, _ in curve.perplexity}),
        few=FEW,
    )


def _policy(style: str) -> str:
    """Nothing is loaded, sent or run; the only style is the one that hashes to this."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"


def _sentences(report: Report, layers: int | None) -> list[tuple[TargetReport, str]]:
    return [
        (target, words.released(target.device, release, report.full, layers))
        for target in report.targets
        if (release := target.shown) is not None
    ]


def _why(release: Release) -> str:
    """The choice in words."""
    chosen = next((one for one in release.considered if one.chosen), None)
    if chosen is None:
        return "What was considered for this release was not kept."
    by_reason: dict[str, int] = {}
    for one in release.considered:
        if not one.chosen:
            by_reason[_kind(one.reason)] = by_reason.get(_kind(one.reason), 0) + 1
    told = "; ".join(f"{amount} {reason}" for reason, amount in by_reason.items())
    return (
        f"{words.count(len(release.considered), 'candidate')} considered. {chosen.shape} in {chosen.quantization} was predicted "
        f"to take {words.number(chosen.tpot_ms)} ms a token and {words.number(chosen.memory_mb)} MB, and has the least perplexity "
        f"of those that fit and were neither refused nor passed over." + (f" Left: {told}." if told else "")
    )


def _kind(reason: str) -> str:
    """A reason without its own figures, so that alike ones can be counted."""
    for said, kind in (
        ("ms a token, over", "over the time per token"),
        ("MB, over", "over the memory"),
        ("agrees with float", "too far from float in what is known of the quantization"),
        ("built, and", "built and refused"),
        ("passed over", "passed over, as another shape in their quantization is too far from float"),
        ("higher perplexity", "of higher perplexity"),
    ):
        if said in reason:
            return kind
    return "for other reasons"
