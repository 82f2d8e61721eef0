"""The picture of memory: weights and KV cache of each release with a full context, as one bar each."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from flows.report import words
from flows.report.frame import NARROW, WIDE, Size
from flows.report.record import TargetReport
from flows.report.scale import Scale
from flows.report.svg import Picture, drawing, element, group, line, text

_ROW = 40.0


def picture(targets: Sequence[TargetReport]) -> Picture | None:
    shown = [(target, target.shown) for target in targets if target.shown is not None]
    if not shown:
        return None
    rows = [(target.name, release.weights_mb, release.kv_cache_mb) for target, release in shown]
    title = "Memory with a full context"
    description = " ".join(
        f"{name}: weights {words.number(weights)} MB, KV cache {words.number(cache)} MB."
        for name, weights, cache in rows
    )
    wide, narrow = (
        drawing(f"memory-{size.name}", title, description, size.width, _ROW * len(rows) + 26, _draw(size, rows))
        for size in (WIDE, NARROW)
    )
    return Picture("memory", title, description, wide, narrow)


def _draw(size: Size, rows: Sequence[tuple[str, float, float]]) -> Markup:
    most = max(weights + cache for _, weights, cache in rows)
    x = Scale(0.0, most * 1.04, 4.0, size.width - 4)
    bottom = _ROW * len(rows)
    ticks = [tick for tick in x.ticks(6) if x(tick) < size.width - 40]
    parts = [line(x(tick), 0, x(tick), bottom, class_="grid") for tick in ticks]
    parts += [text(x(tick), bottom + 15, words.tick(tick), class_="tick", text_anchor="middle") for tick in ticks]
    parts.append(text(size.width - 4, bottom + 15, "MB", class_="title", text_anchor="end"))
    for index, (name, weights, cache) in enumerate(rows):
        y = index * _ROW
        said = f"{name}: {words.number(weights)} + {words.number(cache)}"
        parts.append(text(4.0, y + 13, said, class_="label"))
        parts.append(element("rect", x=x(0), y=y + 19, width=x(weights) - x(0), height=14.0, class_="kept"))
        parts.append(
            element("rect", x=x(weights), y=y + 19, width=x(weights + cache) - x(weights), height=14.0, class_="cache")
        )
    return group(*parts)
