"""What a subnet looks like from outside: which layers attend, and how wide their feed-forward parts are.

Legend: depth counts whole decoder layers; width is a whole percent of the base's FFN neurons; a quarter is a quarter of
them.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

QUARTERS = 4
_LAYER_CODES = "01234abcde"
_SHAPE = re.compile(r"d(\d+)w(\d+)")
_MIXED = re.compile(r"h([0-4a-e]+)")


@dataclass(frozen=True, order=True)
class Shape:
    """A homogeneous shape: `depth` whole layers, each with `width_percent` of its FFN neurons."""

    depth: int
    width_percent: int

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise ValueError(f"a shape keeps at least 1 layer, got depth {self.depth}")
        if not 1 <= self.width_percent <= 100:
            raise ValueError(f"a width is 1 to 100 percent, got {self.width_percent}")

    def __str__(self) -> str:
        return f"d{self.depth}w{self.width_percent}"

    @property
    def blocks(self) -> float:
        """Attentions and quarters of FFNs kept: about alike in parameters in the families that are known."""
        return self.depth * (1 + QUARTERS * self.width_percent / 100)

    def neurons(self, intermediate_size: int, multiple: int) -> int:
        """FFN neurons kept a layer, rounded to the `multiple` that kernels and block quantization want."""
        return _rounded(intermediate_size, self.width_percent / 100, multiple)


@dataclass(frozen=True, order=True)
class LayerShape:
    """One layer of a mixed shape; without attention and without neurons it is gone."""

    attention: bool
    quarters: int

    def __post_init__(self) -> None:
        if not 0 <= self.quarters <= QUARTERS:
            raise ValueError(f"a layer keeps 0 to {QUARTERS} quarters of its FFN, got {self.quarters}")

    def __str__(self) -> str:
        return _LAYER_CODES[self.quarters if self.attention else QUARTERS + 1 + self.quarters]

    @classmethod
    def parse(cls, code: str) -> LayerShape:
        """Read one character of a mixed shape."""
        if code not in _LAYER_CODES or len(code) != 1:
            raise ValueError(f"a layer is one character of {_LAYER_CODES}, got {code!r}")
        index = _LAYER_CODES.index(code)
        return cls(index <= QUARTERS, index % (QUARTERS + 1))

    @property
    def gone(self) -> bool:
        return not self.attention and not self.quarters

    def neurons(self, intermediate_size: int, multiple: int) -> int:
        return _rounded(intermediate_size, self.quarters / QUARTERS, multiple) if self.quarters else 0


WHOLE, GONE = LayerShape(True, QUARTERS), LayerShape(False, 0)


@dataclass(frozen=True, order=True)
class MixedShape:
    """A heterogeneous shape: every layer of the base says whether it attends and how much of its FFN it keeps.

    Written `h` and a character a layer, shallow to deep: 0 to 4 quarters of the FFN with attention, a to e the same
    without; `h44a2` has four layers, the third gone and the last with half of its neurons.
    """

    layers: tuple[LayerShape, ...]

    def __post_init__(self) -> None:
        if all(layer.gone for layer in self.layers) or not any(layer.attention for layer in self.layers):
            raise ValueError("a shape keeps at least 1 layer with attention")

    def __str__(self) -> str:
        return "h" + "".join(map(str, self.layers))

    @classmethod
    def whole(cls, layers: int) -> MixedShape:
        return cls((WHOLE,) * layers)

    @property
    def blocks(self) -> int:
        """Attentions and quarters of FFNs kept."""
        return sum(layer.attention + layer.quarters for layer in self.layers)

    def with_layer(self, index: int, layer: LayerShape) -> MixedShape:
        return MixedShape((*self.layers[:index], layer, *self.layers[index + 1 :]))


AnyShape = Shape | MixedShape


def parse_shape(text: str) -> AnyShape:
    """Read `d24w75` or `h44a2`; raises ValueError for anything else."""
    if match := _SHAPE.fullmatch(text):
        return Shape(int(match[1]), int(match[2]))
    if match := _MIXED.fullmatch(text):
        return MixedShape(tuple(map(LayerShape.parse, match[1])))
    raise ValueError(f"a shape is written like d24w75, or layer by layer like h44a2, got {text!r}")


def _rounded(intermediate_size: int, share: float, multiple: int) -> int:
    if share == 1:
        return intermediate_size
    return min(intermediate_size, max(multiple, round(intermediate_size * share / multiple) * multiple))


def depths_of(layers: int, percents: Sequence[int]) -> tuple[int, ...]:
    """Whole layers kept, all of them first; percents that come to as many layers are one depth.

    Raises ValueError unless `percents` start at 100 and fall, none below 1.
    """
    if not percents or percents[0] != 100 or list(percents) != sorted(set(percents), reverse=True) or percents[-1] < 1:
        raise ValueError(f"supernet.depths_percent start at 100 and fall to 1 at the lowest, got {list(percents)}")
    return tuple(dict.fromkeys(max(1, round(layers * percent / 100)) for percent in percents))


@dataclass(frozen=True)
class ShapeSpace:
    """Every shape a supernet is trained for: a grid of depths and widths, both falling, and mixed shapes beside it."""

    depths: tuple[int, ...]
    widths_percent: tuple[int, ...]
    mixed: tuple[MixedShape, ...] = ()

    def __post_init__(self) -> None:
        for name, values in (("depths", self.depths), ("widths_percent", self.widths_percent)):
            if not values or list(values) != sorted(set(values), reverse=True):
                raise ValueError(f"{name} must be distinct and falling, got {list(values)}")

    @property
    def largest(self) -> Shape:
        return Shape(self.depths[0], self.widths_percent[0])

    @property
    def smallest(self) -> AnyShape:
        """The one of fewest blocks."""
        return min(self.all, key=lambda shape: shape.blocks)

    @property
    def grid(self) -> tuple[Shape, ...]:
        """Largest first."""
        return tuple(itertools.starmap(Shape, itertools.product(self.depths, self.widths_percent)))

    @property
    def all(self) -> tuple[AnyShape, ...]:
        """The grid, then the mixed shapes."""
        return (*self.grid, *self.mixed)

    def __contains__(self, shape: AnyShape) -> bool:
        return shape in self.all

    def check(self, shape: AnyShape) -> None:
        """Raise ValueError naming the nearest shape when `shape` is outside the space."""
        if shape in self:
            return
        if isinstance(shape, MixedShape):
            known = ", ".join(map(str, self.mixed)) or "none"
            raise ValueError(f"the supernet was not trained for {shape}; its mixed shapes are {known}")
        near = Shape(
            min(self.depths, key=lambda depth: abs(depth - shape.depth)),
            min(self.widths_percent, key=lambda width: abs(width - shape.width_percent)),
        )
        raise ValueError(f"the supernet has no subnet {shape}; the nearest is {near}")

    def sandwich(self, count: int, generator: random.Random) -> tuple[AnyShape, ...]:
        """The smallest shape and `count - 1` others drawn at random, without the largest.

        The sandwich rule (Yu et al., ICCV 2019); the largest shape is the frozen teacher, so it is never a student.
        """
        others = [shape for shape in self.all if shape not in (self.largest, self.smallest)]
        return (self.smallest, *generator.sample(others, min(count - 1, len(others))))
