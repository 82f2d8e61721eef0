"""What a subnet looks like from outside: how many layers, and how wide their feed-forward parts are.

Legend: depth counts whole decoder layers; width is a whole percent of the base's FFN neurons.
"""

from __future__ import annotations

import itertools
import random
import re
from dataclasses import dataclass

_SHAPE = re.compile(r"d(\d+)w(\d+)")


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

    @classmethod
    def parse(cls, text: str) -> Shape:
        """Read `d24w75`; raises ValueError for anything else."""
        match = _SHAPE.fullmatch(text)
        if match is None:
            raise ValueError(f"a shape is written like d24w75, got {text!r}")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"d{self.depth}w{self.width_percent}"

    def neurons(self, intermediate_size: int, multiple: int) -> int:
        """FFN neurons kept a layer, rounded to the `multiple` that kernels and block quantization want."""
        if self.width_percent == 100:
            return intermediate_size
        wanted = intermediate_size * self.width_percent / 100
        return min(intermediate_size, max(multiple, round(wanted / multiple) * multiple))


@dataclass(frozen=True)
class ShapeSpace:
    """Every shape a supernet is trained for: a grid of depths and widths, both falling."""

    depths: tuple[int, ...]
    widths_percent: tuple[int, ...]

    def __post_init__(self) -> None:
        for name, values in (("depths", self.depths), ("widths_percent", self.widths_percent)):
            if not values or list(values) != sorted(set(values), reverse=True):
                raise ValueError(f"{name} must be distinct and falling, got {list(values)}")

    @property
    def largest(self) -> Shape:
        return Shape(self.depths[0], self.widths_percent[0])

    @property
    def smallest(self) -> Shape:
        return Shape(self.depths[-1], self.widths_percent[-1])

    @property
    def all(self) -> tuple[Shape, ...]:
        """Largest first."""
        return tuple(itertools.starmap(Shape, itertools.product(self.depths, self.widths_percent)))

    def __contains__(self, shape: Shape) -> bool:
        return shape.depth in self.depths and shape.width_percent in self.widths_percent

    def check(self, shape: Shape) -> None:
        """Raise ValueError naming the nearest shape when `shape` is outside the space."""
        if shape in self:
            return
        near = Shape(
            min(self.depths, key=lambda depth: abs(depth - shape.depth)),
            min(self.widths_percent, key=lambda width: abs(width - shape.width_percent)),
        )
        raise ValueError(f"the supernet has no subnet {shape}; the nearest is {near}")

    def sandwich(self, count: int, generator: random.Random) -> tuple[Shape, ...]:
        """The smallest shape and `count - 1` others drawn at random, without the largest.

        The sandwich rule (Yu et al., ICCV 2019); the largest shape is the frozen teacher, so it is never a student.
        """
        others = [shape for shape in self.all if shape not in (self.largest, self.smallest)]
        return (self.smallest, *generator.sample(others, min(count - 1, len(others))))
