import itertools
import random
from pathlib import Path

import pytest
import torch
from fixtures.tiny import make_model

from components import prefix
from components.depth import Dropped, choose_layers, stages
from components.prefix import ShapeMetric
from components.shape import GONE, MixedShape


@pytest.mark.parametrize("seed", range(100))
def test_on_an_additive_metric_the_programme_equals_brute_force(seed: int) -> None:
    generator = random.Random(seed)
    layers, kept_last, most = 7, 1, 4
    costs = [generator.uniform(0.1, 5) for _ in range(layers)]

    def metric(dropped: Dropped, good_enough: float = float("inf")) -> float:
        return sum(costs[layer] for layer in dropped)

    table = choose_layers(layers, kept_last, most, metric)
    for count in range(most + 1):
        best = min(metric(frozenset(some)) for some in itertools.combinations(range(layers - kept_last), count))
        assert table.best[count] == pytest.approx(best)
        assert len(table.dropped[count]) == count


def test_from_the_shallow_end_an_additive_metric_gives_brute_force_too() -> None:
    costs = [3.0, 1.0, 4.0, 1.5, 9.0, 2.6]

    def metric(dropped: Dropped, good_enough: float = float("inf")) -> float:
        return sum(costs[layer] for layer in dropped)

    table = choose_layers(6, 1, 4, metric, shallow_first=True)
    for count in range(5):
        assert table.best[count] == min(metric(frozenset(some)) for some in itertools.combinations(range(5), count))


def test_the_number_of_evaluations_is_the_formula() -> None:
    for layers, kept_last, most in [(30, 1, 14), (30, 1, 10), (6, 2, 4)]:
        removable = layers - kept_last
        assert len(list(stages(layers, kept_last, most))) == removable * most - most * (most - 1) // 2


def test_the_last_layers_are_never_dropped() -> None:
    table = choose_layers(6, 2, 4, lambda dropped, good_enough: -float(sum(dropped)))
    assert all(max(dropped, default=0) < 4 for dropped in table.dropped)


def test_dropping_more_than_is_removable_is_refused() -> None:
    with pytest.raises(ValueError, match="5 of 6 layers cannot be dropped when the last 2 are kept"):
        choose_layers(6, 2, 5, lambda dropped, good_enough: 0.0)


def slow_kl(seed: int, tokens_BT: torch.Tensor, dropped: Dropped, stride: int) -> float:
    """Two whole models, every layer run."""
    full, cut = make_model(layers=6, seed=seed), make_model(layers=6, seed=seed)
    cut.model.layers = torch.nn.ModuleList(layer for i, layer in enumerate(cut.model.layers) if i not in dropped)
    cut.config.num_hidden_layers = len(cut.model.layers)
    with torch.no_grad():
        p = full(tokens_BT, use_cache=False).logits[:, stride - 1 :: stride].log_softmax(-1)
        q = cut(tokens_BT, use_cache=False).logits[:, stride - 1 :: stride].log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())


def test_the_prefix_cache_gives_the_slow_programme_cell_by_cell(tokens: torch.Tensor) -> None:
    metric = ShapeMetric(make_model(layers=6), tokens)
    cached = choose_layers(6, 1, 4, lambda dropped, good_enough: metric.dropping(dropped))
    slow = choose_layers(6, 1, 4, lambda dropped, good_enough: slow_kl(0, tokens, dropped, 4) if dropped else 0.0)
    assert cached.dropped == slow.dropped
    assert cached.best == pytest.approx(slow.best, rel=1e-4)


def test_giving_up_early_changes_no_cell(tokens: torch.Tensor) -> None:
    patient = ShapeMetric(make_model(layers=6), tokens)
    hasty = ShapeMetric(make_model(layers=6), tokens)
    kept = choose_layers(6, 1, 4, lambda dropped, good_enough: patient.dropping(dropped))
    assert choose_layers(6, 1, 4, hasty.dropping).dropped == kept.dropped


def test_only_layers_behind_the_first_dropped_one_run(tokens: torch.Tensor) -> None:
    metric = ShapeMetric(make_model(layers=6), tokens)
    metric.dropping(frozenset({2, 4}))
    assert metric.layer_evaluations == 2  # 3 and 5


def test_thirty_layers_take_3815_layer_evaluations() -> None:
    metric = ShapeMetric(make_model(layers=30), torch.randint(2, 96, (1, 4)))
    choose_layers(30, 1, 14, lambda dropped, good_enough: metric.dropping(dropped))
    assert metric.layer_evaluations == 3815


def test_a_killed_search_goes_on_to_the_same_table(tokens: torch.Tensor, tmp_path: Path) -> None:
    memory = tmp_path / "metric.json"
    undisturbed = choose_layers(6, 1, 4, ShapeMetric(make_model(layers=6), tokens).dropping)
    killed = ShapeMetric(make_model(layers=6), tokens, memory=memory)
    evaluations = 0

    def kill() -> None:
        nonlocal evaluations
        evaluations += 1
        killed.save()
        if evaluations == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        choose_layers(6, 1, 4, killed.dropping, kill)
    resumed = ShapeMetric(make_model(layers=6), tokens, memory=memory)
    assert choose_layers(6, 1, 4, resumed.dropping) == undisturbed
    whole = ShapeMetric(make_model(layers=6), tokens)
    choose_layers(6, 1, 4, whole.dropping)
    assert resumed.layer_evaluations < whole.layer_evaluations


def test_what_was_given_up_early_is_given_up_early_again_after_a_kill(tokens: torch.Tensor, tmp_path: Path) -> None:
    """Or the search would see another value of the shape than it did, and might go another way."""
    memory, shape = tmp_path / "metric.json", MixedShape.whole(6).with_layer(1, GONE).with_layer(2, GONE)
    killed = ShapeMetric(make_model(layers=6), tokens, memory=memory)
    given_up, whole = killed(shape, good_enough=-1.0), killed(shape)
    assert given_up != whole
    killed.save()
    resumed = ShapeMetric(make_model(layers=6), tokens, memory=memory)
    assert (resumed(shape, good_enough=-1.0), resumed(shape)) == (given_up, whole)
    assert resumed.layer_evaluations == 0


@pytest.mark.parametrize("good_enough", [float("inf"), -1.0], ids=["measured whole", "given up early"])
def test_what_is_known_is_kept_now_and_then_by_itself(
    tokens: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, good_enough: float
) -> None:
    memory, shape = tmp_path / "metric.json", MixedShape.whole(6).with_layer(1, GONE)
    monkeypatch.setattr(prefix, "_KEEP_EVERY_S", 0.0)
    known = ShapeMetric(make_model(layers=6), tokens, memory=memory)(shape, good_enough)
    resumed = ShapeMetric(make_model(layers=6), tokens, memory=memory)
    assert (resumed(shape, good_enough), resumed.layer_evaluations) == (known, 0)
