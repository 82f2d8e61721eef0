"""What charts share: two sizes, axes with ticks and grid, marks of a shape for each kind, and labels that keep apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from flows.report.scale import Scale
from flows.report.svg import CHARACTER, LINE, element, group, line, text
from flows.report.words import tick

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


@dataclass(frozen=True)
class Size:
    """A drawing's pixels, and where in it figures are drawn."""

    name: str
    width: float
    height: float
    left: float = 52.0
    right: float = 14.0
    top: float = 26.0
    bottom: float = 42.0

    @property
    def area(self) -> Box:
        return self.left, self.top, self.width - self.right, self.height - self.bottom


WIDE = Size("wide", 640.0, 340.0)
NARROW = Size("narrow", 320.0, 300.0, left=44.0, right=8.0)


def axes(size: Size, x: Scale, y: Scale, x_label: str, y_label: str, x_ticks: Sequence[float] | None = None) -> Markup:
    """Grid lines at the ticks, their numbers, and what each axis is, written across."""
    left, top, right, bottom = size.area
    parts = []
    for value in y.ticks(6):
        parts.append(line(left, y(value), right, y(value), class_="grid"))
        parts.append(text(left - 6, y(value) + 4, tick(value), class_="tick", text_anchor="end"))
    for value in x.ticks(5 if size is NARROW else 9) if x_ticks is None else x_ticks:
        parts.append(line(x(value), top, x(value), bottom, class_="grid"))
        parts.append(text(x(value), bottom + 15, tick(value), class_="tick", text_anchor="middle"))
    parts.append(line(left, bottom, right, bottom, class_="axis"))
    parts.append(text((left + right) / 2, size.height - 8, x_label, class_="title", text_anchor="middle"))
    parts.append(text(2.0, 13.0, y_label, class_="title"))
    return group(*parts)


def mark(shape: str, x: float, y: float, class_: str) -> Markup:
    """A circle, square or diamond around a point: shape says what colour says, too."""
    if shape == "circle":
        return element("circle", cx=x, cy=y, r=5.0, class_=class_)
    if shape == "square":
        return element("rect", x=x - 4.6, y=y - 4.6, width=9.2, height=9.2, class_=class_)
    if shape == "triangle":
        return element("path", d=_path([(x, y - 5.5), (x + 5.2, y + 4.4), (x - 5.2, y + 4.4)]), class_=class_)
    return element("path", d=_path([(x, y - 6), (x + 6, y), (x, y + 6), (x - 6, y)]), class_=class_)


def _path(corners: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.2f} {y:.2f}" for x, y in corners) + "Z"


@dataclass
class Labels:
    """Writes each label where it covers nothing yet, or nothing but lines; one without room anywhere is left out.

    What is left out is still in the table under the chart and in the mark's own words.
    """

    area: Box
    _marks: list[Box] = field(default_factory=list)
    _lines: list[Box] = field(default_factory=list)

    def keep_clear(self, x: float, y: float, radius: float) -> None:
        """A mark."""
        self._marks.append((x - radius, y - radius, x + radius, y + radius))

    def keep_line_clear(self, x1: float, y1: float, x2: float, y2: float) -> None:
        """A line across or down, which is written over only where there is no room beside it."""
        self._lines.append((min(x1, x2) - 1, min(y1, y2) - 1, max(x1, x2) + 1, max(y1, y2) + 1))

    def beside(self, x: float, y: float, said: str, class_: str) -> Markup:
        """Around a point, on the side that has room."""
        places = (
            (x + 11, y + 4, "start"),
            (x - 11, y + 4, "end"),
            (x + 11, y - 7, "start"),
            (x + 11, y + 15, "start"),
            (x - 11, y + 15, "end"),
            (x - 11, y - 7, "end"),
            (x, y - 13, "middle"),
            (x, y + 21, "middle"),
        )
        return self.at(places, said, class_)

    def at(self, places: Sequence[tuple[float, float, str]], said: str, class_: str) -> Markup:
        """In the first of the places (x, base line, anchor) that has room."""
        width = len(said) * CHARACTER
        for others in ([*self._marks, *self._lines], self._marks):
            for x, base, anchor in places:
                left = x - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
                box = (left, base - LINE + 3, left + width, base + 3)
                if self._inside(box) and not any(_overlap(box, other) for other in others):
                    self._marks.append(box)
                    return text(x, base, said, class_=class_, text_anchor=anchor)
        return Markup("")

    def _inside(self, box: Box) -> bool:
        left, top, right, bottom = self.area
        return left <= box[0] and top - 4 <= box[1] and box[2] <= right + 4 and box[3] <= bottom


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
