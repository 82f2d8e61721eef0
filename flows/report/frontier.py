"""The picture of a target: quality against time per token, with intervals, and what was measured told from what was predicted."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from components.frontier import MeasuredOn
from flows.report import words
from flows.report.frame import NARROW, WIDE, Labels, Size, axes, mark
from flows.report.record import ALIASES, KINDS, Estimate, Full, Spot, TargetReport
from flows.report.scale import Scale
from flows.report.svg import Picture, drawing, element, group, line

MARKS: dict[MeasuredOn, str] = {"device": "square", "host": "circle", "predicted": "diamond"}
Quality = Literal["perplexity", "accuracy"]
_RING = 9.5
"""Pixels from a mark to the ring around what an alias points to."""


@dataclass(frozen=True)
class _Dot:
    x: Estimate
    y: Estimate
    spot: Spot


def pictures(target: TargetReport, full: Full | None) -> tuple[Picture, ...]:
    """Perplexity against time, and accuracy against time; nothing where no artifact has a quality."""
    if not any(spot.perplexity is not None for spot in target.spots):
        return ()
    lower = Estimate(full.perplexity) if full is not None else None
    return (
        _picture(target, "perplexity", lower, "perplexity, lower is better"),
        _picture(
            target, "accuracy", full.accuracy if full is not None else None, "% of questions right, higher is better"
        ),
    )


def _picture(target: TargetReport, quality: Quality, full: Estimate | None, y_label: str) -> Picture:
    dots = [
        _Dot(spot.tpot_ms, _in_percent(figure) if quality == "accuracy" else figure, spot)
        for spot in target.spots
        if (figure := getattr(spot, quality)) is not None
    ]
    reference = _in_percent(full) if full is not None and quality == "accuracy" else full
    name = f"{quality}-{target.name}"
    title = f"{target.device}: {quality} against time per token"
    description = _description(dots, reference, quality)
    wide, narrow = (
        drawing(
            f"{name}-{size.name}",
            title,
            description,
            size.width,
            size.height,
            _draw(size, dots, reference, quality, y_label),
        )
        for size in (WIDE, NARROW)
    )
    return Picture(name, title, description, wide, narrow)


def _draw(size: Size, dots: Sequence[_Dot], full: Estimate | None, quality: Quality, y_label: str) -> Markup:
    left, top, right, bottom = size.area
    x = Scale.around([value for dot in dots for value in _reach(dot.x)], left, right, logarithmic=True)
    heights = [value for dot in dots for value in _reach(dot.y)] + ([full.value] if full is not None else [])
    wide_apart = quality == "perplexity" and max(heights) / min(heights) > 2
    y = Scale.around(heights, bottom, top, logarithmic=wide_apart, room_share=0.14)
    labels = Labels(size.area)
    for dot in dots:
        labels.keep_clear(x(dot.x.value), y(dot.y.value), _RING if dot.spot.aliases else 6.0)
    parts = [axes(size, x, y, "ms a token, logarithmic, less is better", y_label)]
    if full is not None:
        at = y(full.value)
        parts.append(line(left, at, right, at, class_="reference"))
        labels.keep_line_clear(left, at, right, at)
    if quality == "perplexity":
        parts += [_steps(kind, dots, x, y, labels) for kind in KINDS]
    parts += [_bars(dot, x, y, labels) for dot in dots]
    parts += [_place(dot, x, y) for dot in sorted(dots, key=lambda dot: bool(dot.spot.aliases))]
    for dot in sorted(dots, key=lambda dot: (*(alias not in dot.spot.aliases for alias in ALIASES), dot.x.value)):
        if dot.spot.version is not None:
            said = f"v{dot.spot.version} {dot.spot.quantization}"
            parts.append(
                labels.beside(x(dot.x.value), y(dot.y.value), said, "label strong" if dot.spot.aliases else "label")
            )
    if full is not None:
        unit = " %" if quality == "accuracy" else ""
        said, at = f"full model, float: {words.number(full.value)}{unit}", y(full.value)
        places = [
            (where, base, side) for base in (at - 5, at + 14) for where, side in ((right, "end"), (left + 4, "start"))
        ]
        parts.append(labels.at(places, said, "label quiet"))
    return group(*parts)


def _place(dot: _Dot, x: Scale, y: Scale) -> Markup:
    kind, at = dot.spot.measured_on, (x(dot.x.value), y(dot.y.value))
    class_ = f"mark {kind}" + ("" if dot.spot.undominated else " dominated")
    ring = [element("circle", cx=at[0], cy=at[1], r=_RING, class_="ring")] if dot.spot.aliases else []
    return group(element("title", words.place(dot.spot)), mark(MARKS[kind], *at, class_), *ring)


def _bars(dot: _Dot, x: Scale, y: Scale, labels: Labels) -> Markup:
    """Intervals as thin lines through the mark."""
    at_x, at_y = x(dot.x.value), y(dot.y.value)
    ends = []
    if dot.x.interval is not None:
        ends.append((x(dot.x.interval[0]), at_y, x(dot.x.interval[1]), at_y))
    if dot.y.interval is not None:
        ends.append((at_x, y(dot.y.interval[0]), at_x, y(dot.y.interval[1])))
    for end in ends:
        labels.keep_line_clear(*end)
    return group(*(line(*end, class_=f"bar {dot.spot.measured_on}") for end in ends))


def _steps(kind: MeasuredOn, dots: Sequence[_Dot], x: Scale, y: Scale, labels: Labels) -> Markup:
    """The least perplexity reached at each time or sooner, among what was measured alike; a predicted one has no line."""
    if kind == "predicted":
        return Markup("")
    alike = sorted((dot for dot in dots if dot.spot.measured_on == kind), key=lambda dot: (dot.x.value, dot.y.value))
    better: list[_Dot] = []
    for dot in alike:
        if not better or dot.y.value < better[-1].y.value:
            better.append(dot)
    path = ""
    for before, after in itertools.pairwise(better):
        corners = (x(before.x.value), y(before.y.value), x(after.x.value), y(after.y.value))
        labels.keep_line_clear(corners[0], corners[1], corners[2], corners[1])
        labels.keep_line_clear(corners[2], corners[1], corners[2], corners[3])
        path += f"M{corners[0]:.2f} {corners[1]:.2f}H{corners[2]:.2f}V{corners[3]:.2f}"
    return element("path", d=path, class_=f"steps {kind}") if path else Markup("")


def _reach(figure: Estimate) -> tuple[float, ...]:
    return (figure.value, *(figure.interval or ()))


def _in_percent(share: Estimate) -> Estimate:
    low_high = share.interval and (100 * share.interval[0], 100 * share.interval[1])
    return Estimate(100 * share.value, low_high)


def _description(dots: Sequence[_Dot], full: Estimate | None, quality: Quality) -> str:
    said, unit = [f"{words.count(len(dots), 'artifact')}."], " %" if quality == "accuracy" else ""
    for kind in KINDS:
        alike = [dot for dot in dots if dot.spot.measured_on == kind]
        if alike:
            times = [dot.x.value for dot in alike]
            figures = [dot.y.value for dot in alike]
            said.append(
                f"{len(alike)} {words.measured(alike[0].spot)}: {_between(times)} ms a token, {quality} {_between(figures)}"
                f"{unit}."
            )
    if full is not None:
        said.append(f"The full float model is a dashed line at {words.number(full.value, 4)}{unit}.")
    said.append("The table has every figure.")
    return " ".join(said)


def _between(values: Sequence[float]) -> str:
    low, high = words.number(min(values), 4), words.number(max(values), 4)
    return low if low == high else f"{low} to {high}"
