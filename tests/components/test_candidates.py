"""What is considered for a frontier: the trained shapes, and what lies between them."""

from __future__ import annotations

import pytest
import torch
from fixtures.tiny import make_model

from components.candidates import shapes
from components.selection import Selection, SelectionSettings, select
from components.shape import MixedShape, Shape, ShapeSpace

CONFIG = make_model().config.to_dict()


@pytest.fixture(scope="module")
def selection() -> Selection:
    tokens = torch.randint(2, 96, (4, 32), generator=torch.Generator().manual_seed(1))
    return select(make_model(), tokens, SelectionSettings(2, 1, 4, "fluctuation", 32, budgets_percent=[70]))


@pytest.fixture(scope="module")
def space(selection: Selection) -> ShapeSpace:
    return ShapeSpace((4, 2), (100, 50), (selection.mixed[70].shape,))


def test_trained_shapes_come_first_and_those_between_follow(selection: Selection, space: ShapeSpace) -> None:
    found = list(shapes(space, selection, CONFIG))
    assert tuple(found[: len(space.all)]) == space.all
    assert Shape(3, 75) in found
    assert any(isinstance(shape, MixedShape) for shape in found[len(space.all) :])


def test_no_two_keep_the_same_of_the_base(selection: Selection, space: ShapeSpace) -> None:
    found = shapes(space, selection, CONFIG)
    assert len(set(found.values())) == len(found)
    assert all(selection.cut(shape) == cut for shape, cut in found.items())
    assert Shape(4, 88) not in found  # its neurons round to the whole width


def test_nothing_is_smaller_than_what_was_trained(selection: Selection, space: ShapeSpace) -> None:
    smallest = min(shape.blocks for shape in space.all)
    found = shapes(space, selection, CONFIG)
    assert min(shape.blocks for shape in found) > 0.9 * smallest
    assert {shape.depth for shape in found if isinstance(shape, Shape)} == {2, 3, 4}
