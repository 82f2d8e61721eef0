import copy
import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fixtures.tiny import make_model

from components import prefix
from components.blocks import BlockScores
from components.evaluate import Question, multiple_choice
from components.reference import logits_of
from components.selection import Selection, SelectionSettings, _depths, select
from components.shape import GONE, MixedShape, Shape
from components.width import score_widths

SETTINGS = SelectionSettings(min_depth=2, kept_last=1, position_stride=4, width_metric="fluctuation", neuron_multiple=8)
TOKENS = torch.randint(2, 96, (4, 32), generator=torch.Generator().manual_seed(1))


def test_widths_are_scored_on_their_own_text_where_there_is_one() -> None:
    own = torch.randint(2, 96, (6, 32), generator=torch.Generator().manual_seed(9))
    chosen = select(make_model(), TOKENS, SETTINGS, width_text_WT=own)
    assert torch.equal(chosen.widths.neuron_scores_LF, score_widths(make_model(), own.split(1)).neuron_scores_LF)
    assert not torch.equal(
        chosen.widths.neuron_scores_LF, select(make_model(), TOKENS, SETTINGS).widths.neuron_scores_LF
    )


def test_every_depth_keeps_the_better_of_both_searches() -> None:
    chosen = select(make_model(layers=6), TOKENS, SETTINGS)
    assert sorted(chosen.choices) == [2, 3, 4, 5, 6]
    for depth, choice in chosen.choices.items():
        assert len(choice.layers) == depth
        assert choice.layers == tuple(sorted(choice.layers))
        assert 5 in choice.layers
        assert choice.loss == min(choice.loss_dynamic_programme, choice.loss_knapsack)


def test_every_depth_keeps_that_many_layers_where_leaving_one_out_would_help() -> None:
    """Shares of wrong answers do that; the full depth is the base, and the teacher, whatever they say."""
    scores = (0.2, 0.1, -0.1, 0.3)

    class Additive:
        layers = len(scores)

        def dropping(self, dropped: frozenset[int], good_enough: float = math.inf) -> float:
            return 1 + sum(scores[index] for index in dropped)

    blocks = BlockScores(tuple({GONE: score} for score in scores))
    chosen = _depths(Additive(), blocks, SETTINGS, lambda what, done, total: None)
    assert {kept: choice.layers for kept, choice in chosen.items()} == {4: (0, 1, 2, 3), 3: (0, 1, 3), 2: (0, 3)}
    assert all(choice.loss_dynamic_programme == choice.loss_knapsack for choice in chosen.values())


def test_a_base_of_one_layer_is_refused_by_that() -> None:
    with pytest.raises(ValueError, match="the base has 1 layer, and a supernet is cut from 2 or more"):
        select(make_model(layers=1), TOKENS, replace(SETTINGS, min_depth=1))


def test_layers_are_chosen_by_the_questions_answered_wrongly() -> None:
    """Compared with the slow obvious thing: each layer but the last left out, and all questions asked."""
    generator = random.Random(0)

    def some(count: int) -> tuple[int, ...]:
        return tuple(generator.randrange(2, 96) for _ in range(count))

    questions = [Question("made", some(6), (some(1), some(2)), (4, 9), generator.randrange(2)) for _ in range(40)]
    settings, model = replace(SETTINGS, metric="choice_error"), make_model()
    chosen = select(model, TOKENS, settings, questions=questions)
    wrong = []
    for left_out in range(3):
        shorter = copy.deepcopy(model)
        del shorter.model.layers[left_out]
        wrong.append(1 - multiple_choice(logits_of(shorter), questions).value)
    assert chosen.choices[3].loss == pytest.approx(min(wrong))
    assert len(set(wrong)) > 1
    with pytest.raises(ValueError, match=r"data\.selection_questions of params\.yaml"):
        select(make_model(), TOKENS, settings)


def test_a_saved_selection_opens_as_it_was(tmp_path) -> None:
    chosen = select(make_model(), TOKENS, SETTINGS)
    chosen.save(tmp_path)
    opened = Selection.load(tmp_path)
    assert opened.choices == chosen.choices
    assert opened.metric == chosen.metric
    assert opened.cut(Shape(3, 50)) == chosen.cut(Shape(3, 50))
    assert torch.equal(opened.widths.neuron_scores_LF, chosen.widths.neuron_scores_LF)


def test_the_same_inputs_give_the_same_selection_whether_or_not_it_was_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefix, "_KEEP_EVERY_S", 0)
    memory = tmp_path / "metrics.json"
    model = make_model()
    first = select(copy.deepcopy(model), TOKENS, SETTINGS, memory)
    assert memory.is_file()
    again = select(copy.deepcopy(model), TOKENS, SETTINGS, memory)
    assert first.choices == again.choices


def test_more_depth_than_the_base_has_is_refused() -> None:
    with pytest.raises(ValueError, match="1 to the base's 4 layers, got 9"):
        select(make_model(), TOKENS, SelectionSettings(9, 1, 4, "fluctuation", 8))


def test_mixed_shapes_are_chosen_within_their_budgets_and_swaps_never_make_them_worse() -> None:
    settings = replace(SETTINGS, budgets_percent=[80, 60, 40], swaps=20)
    chosen = select(make_model(layers=6), TOKENS, settings)
    assert sorted(chosen.mixed) == [40, 60, 80]
    full = parameters_of(chosen, MixedShape.whole(6))
    for percent, choice in chosen.mixed.items():
        assert parameters_of(chosen, choice.shape) <= full * percent / 100
        assert choice.loss <= choice.loss_before_swaps
        assert choice.shape.layers[-1].attention


def parameters_of(chosen: Selection, shape: MixedShape) -> int:
    """Of the blocks of the tiny model: 64 wide, 4 query and 2 key-value heads of 16."""
    return sum(64 * 2 * (64 + 32) * part.attention + 3 * 64 * part.neurons for part in chosen.cut(shape).layers)


def test_a_mixed_choice_survives_saving(tmp_path) -> None:
    chosen = select(make_model(), TOKENS, replace(SETTINGS, budgets_percent=[60], swaps=3))
    chosen.save(tmp_path)
    opened = Selection.load(tmp_path)
    assert opened.mixed == chosen.mixed
    assert opened.blocks == chosen.blocks


def test_both_directions_are_never_worse_than_one() -> None:
    one = select(make_model(layers=6), TOKENS, SETTINGS)
    both = select(make_model(layers=6), TOKENS, replace(SETTINGS, both_directions=True))
    for depth, choice in both.choices.items():
        assert choice.loss_dynamic_programme <= one.choices[depth].loss_dynamic_programme


def test_too_little_calibration_text_is_refused() -> None:
    with pytest.raises(ValueError, match="reads 30 calibration tokens and needs at least 64"):
        select(make_model(), TOKENS[:1, :30], SETTINGS)


def test_a_base_that_is_not_built_as_its_family_says_is_refused() -> None:
    model = make_model()
    del model.model.layers[2].mlp.up_proj
    with pytest.raises(ValueError, match=r"layer 2 of the base has no mlp\.up_proj"):
        select(model, TOKENS, SETTINGS)


@pytest.mark.parametrize(
    ("numbers", "says"),
    [({"metric": "bleu"}, "metric is one of kl, soft_cross_entropy"), ({"budgets_percent": [100]}, "1 to 99 percent")],
)
def test_settings_that_mean_nothing_are_refused(numbers: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        replace(SETTINGS, **numbers)
