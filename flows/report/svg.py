"""SVG as text: elements whose attributes and text are escaped, and a picture that says in words what it shows.

Colours come from classes (`templates/chart.css`), never from attributes, so that a page's light and dark are a picture's too.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup, escape

_STYLE = Path(__file__).parent / "templates" / "chart.css"
CHARACTER = 6.4
"""Pixels that a character takes at the size of a chart's text, on average and rather more than less."""
LINE = 13.0


@dataclass(frozen=True)
class Picture:
    """A drawing at two sizes, for wide and for narrow screens, with the words that say what it shows."""

    name: str
    """Unique in a page: identifiers and file names start with it."""
    title: str
    description: str
    wide: Markup
    narrow: Markup

    def standing_alone(self) -> str:
        """The wide drawing as a file of its own, its style in it."""
        opened, _, rest = str(self.wide).partition(">")
        namespace = '<svg xmlns="http://www.w3.org/2000/svg" '
        return f"{opened.replace('<svg ', namespace, 1)}><style>{_STYLE.read_text()}</style>{rest}\n"


def element(tag: str, *children: Markup | str, **attributes: object) -> Markup:
    """`element("text", "a<b", x=1.0, class_="label")`; an underscore is a dash, one at the end is dropped."""
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(_number(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    inner = Markup("").join(children)
    return Markup(f"<{tag}{written}>{inner}</{tag}>" if inner else f"<{tag}{written}/>")  # noqa: S704 - escaped above


def group(*children: Markup, **attributes: object) -> Markup:
    return element("g", *children, **attributes)


def text(x: float, y: float, said: str, **attributes: object) -> Markup:
    return element("text", said, x=x, y=y, **attributes)


def line(x1: float, y1: float, x2: float, y2: float, **attributes: object) -> Markup:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, **attributes)


def drawing(name: str, title: str, description: str, width: float, height: float, *children: Markup) -> Markup:
    """An `svg` with its text alternative; `name` must be unique in the page."""
    return element(
        "svg",
        element("title", title, id=f"{name}-title"),
        element("desc", description, id=f"{name}-desc"),
        *children,
        viewBox=f"0 0 {_number(width)} {_number(height)}",
        width=width,
        height=height,
        role="img",
        aria_labelledby=f"{name}-title {name}-desc",
        class_="chart",
    )


def _number(value: object) -> str:
    """Two decimals are a hundredth of a pixel; the same number is always written alike."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
