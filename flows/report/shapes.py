"""The picture of a shape: a column a layer, shallow to deep, attention above and the kept share of the FFN below."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from components.shape import QUARTERS, MixedShape, parse_shape
from flows.report import words
from flows.report.record import DrawnLayer, DrawnShape
from flows.report.svg import Picture, drawing, element, group, line, text

_WIDTH, _ATTENTION, _FFN = 320.0, 12.0, 56.0
_LEFT, _TOP = 34.0, 4.0


def drawn(shape: str, used_by: tuple[str, ...], selection: Mapping[str, Any]) -> DrawnShape:
    """A shape's layers, by the selection that its supernet holds; raises ValueError for one that it does not explain."""
    known, total = parse_shape(shape), len(selection["blocks"])
    if isinstance(known, MixedShape):
        layers = [DrawnLayer(layer.attention, layer.quarters / QUARTERS) for layer in known.layers]
        return DrawnShape(shape, tuple(layers), used_by)
    choice = selection["choices"].get(str(known.depth))
    if choice is None:
        raise ValueError(f"the selection has no depth {known.depth}; it has {', '.join(sorted(selection['choices']))}")
    kept = set(choice["layers"])
    width = known.width_percent / 100
    return DrawnShape(
        shape, tuple(DrawnLayer(index in kept, width if index in kept else 0.0) for index in range(total)), used_by
    )


def picture(shape: DrawnShape) -> Picture:
    title = f"{shape.shape}: {words.shape(shape.shape, len(shape.layers))}"
    description = words.layer_by_layer(shape)
    wide, narrow = (
        drawing(
            f"shape-{shape.shape}-{size}", title, description, _WIDTH, _TOP + _ATTENTION + 4 + _FFN + 18, _draw(shape)
        )
        for size in ("wide", "narrow")
    )
    return Picture(f"shape-{shape.shape}", title, description, wide, narrow)


def _draw(shape: DrawnShape) -> Markup:
    column = (_WIDTH - _LEFT) / len(shape.layers)
    bar = max(column - 2, 1.0)
    ffn = _TOP + _ATTENTION + 4
    parts = [
        text(_LEFT - 5, _TOP + 10, "attn", class_="tick", text_anchor="end"),
        text(_LEFT - 5, ffn + 12, "FFN", class_="tick", text_anchor="end"),
    ]
    every = next(step for step in (1, 5, 10, 20, 50) if len(shape.layers) / step <= 12)
    for index, layer in enumerate(shape.layers):
        x = _LEFT + index * column
        parts.append(
            element("rect", x=x, y=_TOP, width=bar, height=_ATTENTION, class_="kept" if layer.attention else "empty")
        )
        parts.append(element("rect", x=x, y=ffn, width=bar, height=_FFN, class_="empty"))
        if layer.ffn:
            parts.append(element("rect", x=x, y=ffn, width=bar, height=_FFN * layer.ffn, class_="ffn"))
        if layer.gone:
            parts.append(line(x + bar / 2, _TOP, x + bar / 2, ffn + _FFN, class_="gone"))
        if index % every == 0:
            parts.append(text(x + bar / 2, ffn + _FFN + 13, str(index), class_="tick", text_anchor="middle"))
    return group(*parts)
