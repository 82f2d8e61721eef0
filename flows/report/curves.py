"""The picture of training: held-out perplexity of each shape, step by step."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from markupsafe import Markup

from flows.report import words
from flows.report.frame import NARROW, WIDE, Size, axes, mark
from flows.report.record import Curve
from flows.report.scale import Scale
from flows.report.svg import CHARACTER, LINE, Picture, drawing, element, group, line, text

_MARKS = ("circle", "square", "diamond", "triangle")
_COLOURS = 6
_LONGEST = 12
"""Characters of a label; a shape written layer by layer is cut there, the table has it whole."""


def picture(curves: Sequence[Curve]) -> Picture | None:
    if not curves:
        return None
    title = "Held-out perplexity by training step"
    description = " ".join(
        f"{curve.shape} goes from {words.number(curve.perplexity[0][1], 4)} to {words.number(curve.perplexity[-1][1], 4)}."
        for curve in curves
    )
    wide, narrow = (
        drawing(f"training-{size.name}", title, description, size.width, size.height, _draw(size, curves))
        for size in (WIDE, NARROW)
    )
    return Picture("training", title, description, wide, narrow)


def short(shape: str) -> str:
    return shape if len(shape) <= _LONGEST else f"{shape[: _LONGEST - 1]}…"


def _draw(size: Size, curves: Sequence[Curve]) -> Markup:
    left, top, right, bottom = size.area
    right -= (max(len(short(curve.shape)) for curve in curves)) * CHARACTER + 8
    steps = sorted({step for curve in curves for step, _ in curve.perplexity})
    x = Scale(float(steps[0]), float(max(steps[-1], steps[0] + 1)), left + 8, right)
    y = Scale.around((value for curve in curves for _, value in curve.perplexity), bottom, top, logarithmic=True)
    fitting = steps if len(steps) <= 5 else None
    parts = [axes(size, x, y, "training step", "perplexity, logarithmic, lower is better", fitting)]
    for index, curve in enumerate(curves):
        colour = f"series s{index % _COLOURS}"
        points = [(x(step), y(value)) for step, value in curve.perplexity]
        path = "M" + "L".join(f"{at_x:.2f} {at_y:.2f}" for at_x, at_y in points)
        parts.append(element("path", d=path, class_=f"{colour} d{index % len(_MARKS)}"))
        parts += [
            mark(_MARKS[index % len(_MARKS)], *point, f"{colour} filled") for point in points[:: len(points) // 8 + 1]
        ]
    ends = [y(curve.perplexity[-1][1]) for curve in curves]
    for index, (curve, at) in enumerate(zip(curves, _apart(ends, top, bottom), strict=True)):
        if abs(at - ends[index]) > 2:
            parts.append(line(right + 2, ends[index], right + 7, at, class_="grid"))
        parts.append(text(right + 9, at + 4, short(curve.shape), class_=f"label t{index % _COLOURS}"))
    return group(*parts)


def _apart(wanted: Sequence[float], top: float, bottom: float) -> list[float]:
    """Heights as near as can be to those wanted, a line of text apart where there is room for all."""
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    placed = list(wanted)
    for above, below in itertools.pairwise(order):
        placed[below] = max(placed[below], placed[above] + LINE)
    over = placed[order[-1]] - bottom
    if over > 0:
        placed[order[-1]] -= over
        for below, above in itertools.pairwise(order[::-1]):
            placed[above] = max(top, min(placed[above], placed[below] - LINE))
    return placed
