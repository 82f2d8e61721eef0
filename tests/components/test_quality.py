"""Perplexity predicted from one-block scores, and corrected by what was measured."""

from __future__ import annotations

import math
import random

import pytest
import torch
from fixtures.tiny import make_model

from components.blocks import BlockScores
from components.quality import Outline, Quality, features
from components.selection import Cut, LayerCut, Selection, SelectionSettings, select
from components.shape import GONE, WHOLE, LayerShape, MixedShape, Shape

RATIOS = {"int8": 1.01, "int4": 1.05}
OUTLINES = [Outline(f"shape{number}", 0.4 * number, 0.05 * number) for number in range(10)]


def truth(outline: Outline, quantization: str | None = None, evaluation: bool = False) -> float:
    """Linear but for a part of each shape's own; one quantization costs more than it is said to."""
    own = random.Random(outline.name).gauss(0, 0.05) * outline.removed
    rounding = {"int8": 0.012, "int4": 0.09, None: 0.0}[quantization]
    return math.exp(3 + 0.3 * outline.scores + outline.removed + own + rounding - 0.4 * evaluation)


def known(outlines: list[Outline]) -> list[tuple[dict[str, float], float]]:
    return [(features(outline, None, evaluation=False), truth(outline)) for outline in outlines]


@pytest.fixture
def selection() -> Selection:
    tokens = torch.randint(2, 96, (4, 32), generator=torch.Generator().manual_seed(1))
    return select(make_model(), tokens, SelectionSettings(2, 1, 4, "fluctuation", 32))


def test_an_outline_adds_up_the_scores_of_what_is_cut(selection: Selection) -> None:
    shape = MixedShape((WHOLE, LayerShape(True, 2), GONE, LayerShape(False, 1)))
    outline = Outline.of(str(shape), selection.cut(shape), selection.blocks, 128)
    assert outline.scores == pytest.approx(selection.blocks.total(shape))
    assert outline.removed == pytest.approx(1 - shape.blocks / 20)
    full = Outline.of("d4w100", selection.cut(Shape(4, 100)), selection.blocks, 128)
    assert (full.scores, full.removed) == (0, 0)


def test_a_width_between_quarters_scores_between_them() -> None:
    blocks = BlockScores(({LayerShape(True, quarters): float(10 - quarters) for quarters in range(5)},))
    for neurons, scores in ((64, 8), (80, 7.5), (96, 7)):
        assert Outline.of("", Cut((LayerCut(0, True, neurons),)), blocks, 128).scores == scores


def test_a_shape_that_was_not_trained_is_predicted_from_those_that_were() -> None:
    quality = Quality(known(OUTLINES[::2]), RATIOS)
    for outline in OUTLINES[1::2]:
        mean, spread = quality.predict(features(outline, None, evaluation=False))
        assert abs(mean - math.log(truth(outline))) < 3 * spread < 0.3


def test_what_was_measured_of_one_quantization_corrects_the_others_of_the_shape() -> None:
    odd = OUTLINES[9]
    start = known(OUTLINES[:8])
    higher = truth(odd, "int8", True) * 1.2
    before = Quality([*start, (features(OUTLINES[0], None, evaluation=True), truth(OUTLINES[0], None, True))], RATIOS)
    after = Quality([*start, (features(odd, "int8", evaluation=True), higher)], RATIOS)
    asked = features(odd, "int4", evaluation=True)
    assert after.predict(asked)[0] > before.predict(asked)[0] + 0.1
    assert after.predict(asked)[1] < before.predict(asked)[1]


def test_a_quantization_is_as_bad_as_it_measured_and_not_as_it_was_said_to_be() -> None:
    built = [(features(one, "int4", evaluation=True), truth(one, "int4", True)) for one in OUTLINES[:6:2]]
    floats = [(features(OUTLINES[0], None, evaluation=True), truth(OUTLINES[0], None, True))]
    first, then = (Quality([*known(OUTLINES), *floats, *more], RATIOS) for more in ([], built))
    asked, wanted = features(OUTLINES[7], "int4", evaluation=True), math.log(truth(OUTLINES[7], "int4", True))
    assert abs(then.predict(asked)[0] - wanted) < 0.5 * abs(first.predict(asked)[0] - wanted)


def test_the_less_is_known_the_wider_the_spread() -> None:
    quality = Quality(known(OUTLINES[:4]), RATIOS)
    spreads = [quality.predict(features(OUTLINES[number], None, evaluation=False))[1] for number in (3, 5, 9)]
    assert spreads == sorted(spreads)
    assert spreads[0] < 0.02


def test_perplexity_is_predicted_from_something() -> None:
    with pytest.raises(ValueError, match="at least one measurement"):
        Quality([], RATIOS)
