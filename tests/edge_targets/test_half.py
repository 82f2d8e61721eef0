"""Activations that float16 does not hold are found in the float model."""

from __future__ import annotations

import pytest
import torch
from fixtures.tiny import make_model

from edge_targets._half import LARGEST, largest_activation


def largest(gain: float) -> float:
    """Of a tiny model whose gate is so much steeper."""
    model = make_model(layers=2)
    model.model.layers[1].mlp.gate_proj.weight.data *= gain
    with torch.no_grad(), largest_activation(model) as found:
        model(torch.tensor([[5, 7, 11, 13]]))
    model(torch.tensor([[5, 7, 11, 13]]))
    return found()


def test_the_largest_value_is_that_of_the_product_that_grew() -> None:
    assert largest(1.0) < LARGEST < largest(1e6)
    assert largest(1e6) == pytest.approx(1000 * largest(1e3), rel=0.01)


def test_nothing_is_looked_at_afterwards() -> None:
    model = make_model(layers=1)
    with torch.no_grad(), largest_activation(model) as found:
        model(torch.tensor([[5]]))
        before = found()
    model.lm_head.weight.data *= 1e6
    model(torch.tensor([[5]]))
    assert found() == before
