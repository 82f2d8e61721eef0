import copy

import pytest
import torch
from fixtures.tiny import make_model

from components.selection import Selection, SelectionSettings, select
from components.shape import Shape

SETTINGS = SelectionSettings(min_depth=2, kept_last=1, position_stride=4, width_metric="fluctuation", neuron_multiple=8)
TOKENS = torch.randint(2, 96, (4, 32), generator=torch.Generator().manual_seed(1))


def test_every_depth_keeps_the_better_of_both_searches() -> None:
    chosen = select(make_model(layers=6), TOKENS, SETTINGS)
    assert sorted(chosen.choices) == [2, 3, 4, 5, 6]
    for depth, choice in chosen.choices.items():
        assert len(choice.layers) == depth
        assert choice.layers == tuple(sorted(choice.layers))
        assert 5 in choice.layers
        assert choice.kl == min(choice.kl_dynamic_programme, choice.kl_knapsack)


def test_a_saved_selection_opens_as_it_was(tmp_path) -> None:
    chosen = select(make_model(), TOKENS, SETTINGS)
    chosen.save(tmp_path)
    opened = Selection.load(tmp_path)
    assert opened.choices == chosen.choices
    assert opened.cut(Shape(3, 50)) == chosen.cut(Shape(3, 50))
    assert torch.equal(opened.widths.neuron_scores_LF, chosen.widths.neuron_scores_LF)


def test_the_same_inputs_give_the_same_selection_whether_or_not_it_was_remembered(tmp_path) -> None:
    memory = tmp_path / "metrics.json"
    model = make_model()
    first = select(copy.deepcopy(model), TOKENS, SETTINGS, memory)
    again = select(copy.deepcopy(model), TOKENS, SETTINGS, memory)
    assert first.choices == again.choices


def test_more_depth_than_the_base_has_is_refused() -> None:
    with pytest.raises(ValueError, match="1 to the base's 4 layers, got 9"):
        select(make_model(), TOKENS, SelectionSettings(9, 1, 4, "fluctuation", 8))
