"""Any budget: one-block scores, the exact knapsack over them, and swaps on the true metric."""

import itertools
import random

import pytest
import torch
from fixtures.tiny import make_model
from transformers import PreTrainedModel

from components.blocks import MEASURED, OPTIONS, AnyBudget, BlockScores, score_blocks
from components.evaluate import Question, multiple_choice
from components.prefix import ShapeMetric
from components.readout import READOUTS, ChoiceError
from components.reference import logits_of
from components.selection import Selection, SelectionSettings, select
from components.shape import GONE, WHOLE, LayerShape, MixedShape, ShapeSpace, parse_shape
from components.smol import AdapterSettings
from components.subnet import extract
from components.supernet import Supernet
from components.width import permute_neurons


def cost(layer: LayerShape) -> float:
    return 8.0 * layer.attention + 6.0 * layer.quarters


def random_scores(layers: int, seed: int) -> BlockScores:
    generator = random.Random(seed)
    return BlockScores(
        tuple({WHOLE: 0.0, **{option: generator.uniform(0, 5) for option in MEASURED}} for _ in range(layers))
    )


@pytest.mark.parametrize("seed", range(12))
def test_the_choice_for_a_budget_equals_exhaustive_search(seed: int) -> None:
    scores = random_scores(3, seed)
    search = AnyBudget(scores, cost, kept_last=0)
    # The knapsack rounds each layer's cost up by less than a twenty-thousandth of the whole.
    budget = random.Random(seed).uniform(0.2, 0.95) * search.full
    fitting = [
        MixedShape(layers)
        for layers in itertools.product(OPTIONS, repeat=3)
        if any(layer.attention for layer in layers) and sum(map(cost, layers)) <= budget * 0.9995
    ]
    chosen = search.choose(budget)
    assert search.cost_of(chosen) <= budget
    assert scores.total(chosen) <= min(map(scores.total, fitting)) + 1e-9


@pytest.mark.parametrize("percent", range(5, 100, 5))
def test_a_budget_is_never_exceeded_and_the_last_layers_keep_their_attention(percent: int) -> None:
    search = AnyBudget(random_scores(12, percent), cost, kept_last=2)
    chosen = search.choose(search.full * percent / 100)
    assert search.cost_of(chosen) <= search.full * percent / 100
    assert chosen.layers[-1].attention
    assert chosen.layers[-2].attention


def test_a_budget_no_shape_meets_names_the_cheapest() -> None:
    search = AnyBudget(random_scores(4, 0), cost, kept_last=1)
    with pytest.raises(ValueError, match="no shape costs at most 5; the cheapest costs 8"):
        search.choose(5)


def test_a_budget_of_everything_keeps_everything() -> None:
    search = AnyBudget(random_scores(4, 0), cost)
    assert search.choose(search.full) == MixedShape.whole(4)


class Rugged:
    """A metric that is not additive: neighbouring layers that lack something cost extra."""

    layers = 6

    def __init__(self, scores: BlockScores) -> None:
        self.scores, self.asked = scores, 0

    def __call__(self, shape: MixedShape, good_enough: float = float("inf")) -> float:
        self.asked += 1
        pairs = itertools.pairwise(shape.layers)
        return self.scores.total(shape) + 3 * sum(a != WHOLE and b != WHOLE for a, b in pairs)


@pytest.mark.parametrize("seed", range(5))
def test_swaps_stay_within_the_budget_and_never_make_it_worse(seed: int) -> None:
    scores = random_scores(6, seed)
    metric, search = Rugged(scores), AnyBudget(scores, cost)
    budget = 0.6 * search.full
    first = search.choose(budget)
    repaired = search.repair(first, budget, metric, evaluations=60)
    assert search.cost_of(repaired) <= budget
    assert metric(repaired) <= metric(first)
    assert metric.asked <= 60 + 3


def test_swaps_help_where_scores_do_not_add_up() -> None:
    better = 0
    for seed in range(10):
        scores = random_scores(6, seed)
        metric, search = Rugged(scores), AnyBudget(scores, cost)
        first = search.choose(0.6 * search.full)
        better += metric(search.repair(first, 0.6 * search.full, metric, evaluations=60)) < metric(first)
    assert better >= 5


SHAPE = parse_shape("h3ac4")


@pytest.fixture
def chosen(tokens: torch.Tensor) -> Selection:
    return select(make_model(), tokens, SelectionSettings(2, 1, 4, "fluctuation", 8))


@pytest.fixture
def sorted_model(chosen: Selection) -> PreTrainedModel:
    model = make_model()
    permute_neurons(model, chosen.widths.neuron_order_LF)
    return model


@pytest.fixture
def subnet(chosen: Selection) -> PreTrainedModel:
    return extract(Supernet(make_model(), chosen, ShapeSpace((4,), (100,)), AdapterSettings(2, 4)), SHAPE).model


@pytest.mark.parametrize("name", ["kl", "soft_cross_entropy", "cross_entropy"])
def test_every_metric_of_a_shape_equals_the_extracted_subnets(
    name: str, tokens: torch.Tensor, sorted_model: PreTrainedModel, subnet: PreTrainedModel
) -> None:
    with torch.no_grad():
        given = subnet(tokens).logits[:, 3::4].log_softmax(-1)
        full = sorted_model(tokens).logits[:, 3::4].log_softmax(-1)
    wanted = {
        "kl": (full.exp() * (full - given)).sum(-1).mean(),
        "soft_cross_entropy": -(full.exp() * given).sum(-1).mean(),
        "cross_entropy": -given[:, :-1].gather(-1, tokens[:, 4::4, None]).mean(),
    }[name]
    metric = ShapeMetric(sorted_model, tokens, READOUTS[name](tokens, 4), neuron_multiple=8)
    assert metric(SHAPE) == pytest.approx(float(wanted), rel=1e-4)


def test_a_sliding_window_shorter_than_the_sequences_masks_a_part_of_them_as_it_masks_all(tokens: torch.Tensor) -> None:
    model = make_model("mistral")
    model.config.sliding_window = 8
    at_once = ShapeMetric(model, tokens)(SHAPE)
    assert ShapeMetric(model, tokens)(SHAPE, good_enough=at_once) == pytest.approx(at_once, rel=1e-4)


def test_the_choice_error_is_what_evaluation_says_of_the_subnet(
    sorted_model: PreTrainedModel, subnet: PreTrainedModel
) -> None:
    generator = random.Random(0)

    def some(count: int) -> tuple[int, ...]:
        return tuple(generator.randrange(2, 96) for _ in range(count))

    questions = [
        Question("made", some(generator.randint(3, 9)), (some(1), some(3), some(2)), (3, 8, 5), generator.randrange(3))
        for _ in range(24)
    ]
    readout = ChoiceError(questions)
    metric = ShapeMetric(sorted_model, readout.tokens_BT, readout, neuron_multiple=8)
    for shape, model in ((SHAPE, subnet), (MixedShape.whole(4), sorted_model)):
        assert metric(shape) == pytest.approx(1 - multiple_choice(logits_of(model), questions).value)


def test_giving_up_early_never_rejects_what_is_nearly_good_enough(
    tokens: torch.Tensor, sorted_model: PreTrainedModel
) -> None:
    patient, hasty = (ShapeMetric(sorted_model, tokens, neuron_multiple=8) for _ in range(2))
    value = patient(SHAPE)
    assert hasty(SHAPE, good_enough=value) == pytest.approx(value)
    assert ShapeMetric(sorted_model, tokens, neuron_multiple=8)(SHAPE, good_enough=-1.0) > -1.0


def test_the_table_of_one_block_scores_is_each_cut_measured_alone(
    tokens: torch.Tensor, sorted_model: PreTrainedModel
) -> None:
    metric = ShapeMetric(sorted_model, tokens, neuron_multiple=8)
    scores = score_blocks(metric)
    assert scores.of(2, parse_shape("hc4").layers[0]) == pytest.approx(
        scores.of(2, LayerShape(False, 4)) + scores.of(2, LayerShape(True, 2))
    )
    assert scores.of(1, GONE) == pytest.approx(metric(parse_shape("h4a44")))
    assert scores.of(3, LayerShape(True, 1)) == pytest.approx(metric(parse_shape("h4441")))
    # Prefix cache: a layer's six cuts run that layer (but for the one that is gone) and those behind it.
    counted = ShapeMetric(sorted_model, tokens, neuron_multiple=8)
    score_blocks(counted)
    assert counted.layer_evaluations == sum(6 * (3 - index) + 5 for index in range(4))
