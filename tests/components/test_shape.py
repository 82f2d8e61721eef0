import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.shape import GONE, LayerShape, MixedShape, Shape, ShapeSpace, depths_of, parse_shape

SPACE = ShapeSpace((30, 24, 20), (100, 75, 50))


@given(st.integers(1, 200), st.integers(1, 100))
def test_a_shape_reads_what_it_writes(depth: int, width: int) -> None:
    assert parse_shape(str(Shape(depth, width))) == Shape(depth, width)


layers = st.builds(LayerShape, st.booleans(), st.integers(0, 4))


@given(st.lists(layers, min_size=1, max_size=40).filter(lambda kept: any(layer.attention for layer in kept)))
def test_a_mixed_shape_reads_what_it_writes(kept: list[LayerShape]) -> None:
    assert parse_shape(str(MixedShape(tuple(kept)))) == MixedShape(tuple(kept))


def test_a_mixed_shape_says_layer_by_layer_what_it_keeps() -> None:
    shape = parse_shape("h42ac")
    assert shape == MixedShape((LayerShape(True, 4), LayerShape(True, 2), GONE, LayerShape(False, 2)))
    assert [layer.neurons(256, 32) for layer in shape.layers] == [256, 128, 0, 128]


@pytest.mark.parametrize("text", ["haaa", "hbcd"])
def test_a_shape_without_any_attention_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="at least 1 layer with attention"):
        parse_shape(text)


@pytest.mark.parametrize("text", ["", "d24", "w75", "24x75", "d24w75 ", "d-1w50", "h", "h45", "h4f", "H4"])
def test_text_that_is_no_shape_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="like d24w75"):
        parse_shape(text)


@given(st.integers(1, 100), st.sampled_from([1, 32, 64]), st.integers(1, 40))
def test_neurons_are_a_multiple_within_the_base(width: int, multiple: int, times: int) -> None:
    intermediate = multiple * times
    neurons = Shape(1, width).neurons(intermediate, multiple)
    assert neurons % multiple == 0
    assert multiple <= neurons <= intermediate


def test_the_full_width_keeps_every_neuron_whatever_the_multiple() -> None:
    assert Shape(1, 100).neurons(1000, 64) == 1000


def test_a_sandwich_holds_the_smallest_shape_and_never_the_full_one() -> None:
    for seed in range(50):
        shapes = SPACE.sandwich(3, random.Random(seed))
        assert shapes[0] == SPACE.smallest
        assert SPACE.largest not in shapes
        assert len(set(shapes)) == 3


def test_a_shape_outside_the_space_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="the nearest is d24w75"):
        SPACE.check(Shape(25, 70))


@pytest.mark.parametrize("depths", [(), (20, 24), (24, 24)])
def test_a_space_needs_distinct_falling_depths(depths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="distinct and falling"):
        ShapeSpace(depths, (100,))


def test_depths_are_shares_of_whatever_layers_a_base_has() -> None:
    assert depths_of(30, (100, 80, 66)) == (30, 24, 20)
    assert depths_of(28, (100, 80, 66)) == (28, 22, 18)
    assert depths_of(2, (100, 80, 66, 20)) == (2, 1)


@pytest.mark.parametrize("percents", [(), (80, 66), (100, 66, 80), (100, 100), (100, 0)])
def test_depths_start_at_the_whole_base_and_fall(percents: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="depths_percent start at 100 and fall"):
        depths_of(30, percents)
