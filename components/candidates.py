"""The shapes worth a thought: what a supernet was trained for, and what lies between.

The gate of a supernet answers for any shape, so a shape that was never trained itself is as good as its neighbours make it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from components import family
from components.blocks import AnyBudget
from components.selection import Cut, Selection
from components.shape import AnyShape, Shape, ShapeSpace

_WIDTH_STEPS = 8
_BUDGET_STEP_PERCENT = 5


def shapes(space: ShapeSpace, selection: Selection, config: Mapping[str, Any]) -> dict[AnyShape, Cut]:
    """Every shape with what it keeps of the base, the trained ones first; of shapes that keep the same the first.

    `config` is the base's.
    """
    found: dict[Cut, AnyShape] = {}
    for shape in (*space.all, *_grid_between(space, selection), *_mixed_between(space, selection, config)):
        found.setdefault(selection.cut(shape), shape)
    return {shape: cut for cut, shape in found.items()}


def _grid_between(space: ShapeSpace, selection: Selection) -> Iterator[Shape]:
    """Every depth and every eighth of a width between the deepest and widest and the shallowest and narrowest."""
    for depth in sorted(selection.choices, reverse=True):
        for eighths in range(_WIDTH_STEPS, 0, -1):
            percent = round(100 * eighths / _WIDTH_STEPS)
            if depth >= space.depths[-1] and percent >= space.widths_percent[-1]:
                yield Shape(depth, percent)


def _mixed_between(space: ShapeSpace, selection: Selection, config: Mapping[str, Any]) -> Iterator[AnyShape]:
    """The knapsack's choice for every twentieth of the block parameters, down to the smallest shape that was trained."""
    attention, neuron = family.attention_weights(config), family.neuron_weights(config)
    intermediate, multiple = config["intermediate_size"], selection.neuron_multiple
    search = AnyBudget(
        selection.blocks,
        lambda layer: attention * layer.attention + neuron * layer.neurons(intermediate, multiple),
    )
    smallest = selection.cut(space.smallest).layers
    least = sum(attention * layer.attention + neuron * layer.neurons for layer in smallest)
    for percent in range(100 - _BUDGET_STEP_PERCENT, 0, -_BUDGET_STEP_PERCENT):
        if search.full * percent / 100 >= least:
            yield search.choose(search.full * percent / 100)
