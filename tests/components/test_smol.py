"""The gate: what it gives each shape, before and after training."""

import math

import pytest
import torch

from components.smol import AdapterSettings, FixedGate, Gate, exploring, imbalance, spread, usage_entropy

SHAPES = torch.rand(40, 12, generator=torch.Generator().manual_seed(0))


def gate(experts: int = 5, top_k: int = 2) -> Gate:
    return Gate(SHAPES[spread(experts, list(SHAPES))], top_k)


@pytest.mark.parametrize("top_k", [1, 2, 4, 5])
def test_exactly_k_experts_are_used_and_they_sum_to_one(top_k: int) -> None:
    mixtures_SE = gate(top_k=top_k)(SHAPES)
    assert (mixtures_SE > 0).sum(1).tolist() == [top_k] * len(SHAPES)
    torch.testing.assert_close(mixtures_SE.sum(1), torch.ones(len(SHAPES)))


def test_an_anchor_is_led_by_its_own_expert() -> None:
    anchors = spread(5, list(SHAPES))
    assert gate()(SHAPES[anchors]).argmax(1).tolist() == list(range(5))


def test_a_fresh_gate_uses_its_experts_well() -> None:
    assert usage_entropy(gate()(SHAPES)) >= 0.5 * math.log(5)


def test_noise_is_drawn_while_exploring_only_and_from_the_seed_alone() -> None:
    made = gate()
    calm = made(SHAPES)
    assert torch.equal(made(SHAPES), calm)
    with exploring(made, 7, dense=False):
        noisy = made(SHAPES)
    with exploring(made, 7, dense=False):
        assert torch.equal(made(SHAPES), noisy)
    with exploring(made, 8, dense=False):
        assert not torch.equal(made(SHAPES), noisy)
    assert not torch.equal(noisy, calm)
    assert torch.equal(made(SHAPES), calm)


def test_every_expert_is_active_while_dense() -> None:
    made = gate()
    with exploring(made, 7, dense=True):
        assert (made(SHAPES) > 0).all()
    assert (made(SHAPES) > 0).sum(1).tolist() == [2] * len(SHAPES)


def test_imbalance_is_zero_when_experts_are_used_alike_and_grows_as_one_takes_over() -> None:
    assert float(imbalance(torch.full((3, 4), 0.25))) == 0
    shifted = torch.tensor([[0.7, 0.3, 0.0, 0.0]])
    alone = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    assert 0 < float(imbalance(shifted)) < float(imbalance(alone)) == pytest.approx(3)


def test_usage_entropy_is_that_of_the_mean_mixture() -> None:
    assert usage_entropy(torch.eye(4)) == pytest.approx(math.log(4))
    assert usage_entropy(torch.tensor([[1.0, 0.0]] * 9)) == pytest.approx(0, abs=1e-9)


def test_one_expert_a_shape_gives_each_known_shape_its_own() -> None:
    assert FixedGate(40, SHAPES)(SHAPES).argmax(1).tolist() == list(range(40))


@pytest.mark.parametrize(
    ("numbers", "says"),
    [
        ({"rank": 0}, "at least 1"),
        ({"experts": 4, "top_k": 5}, "top_k is 1 to the 4 experts, got 5"),
        ({"mixing": "sum"}, "mixing is one of factors, product"),
        ({"gate": "random"}, "gate is one of learned, uniform, one_a_shape"),
    ],
)
def test_numbers_that_make_no_adapters_are_refused(numbers: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        AdapterSettings(**{"rank": 4, "alpha": 8, **numbers})
