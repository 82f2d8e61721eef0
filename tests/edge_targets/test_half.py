"""Activations that float16 does not hold are found in the float model."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from fixtures.tiny import make_model

from edge_targets._half import LARGEST, check, largest_activation
from edge_targets._target import PackageError


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


def test_a_value_that_is_no_number_is_the_largest_and_is_refused() -> None:
    assert math.isnan(largest(math.nan))
    model = make_model(layers=1)
    model.model.layers[0].mlp.gate_proj.weight.data[0, 0] = math.nan
    with torch.no_grad(), pytest.raises(PackageError, match="computes values of nan on plain text"):
        check(model, np.array([[5, 7, 11, 13]]))


def test_nothing_is_looked_at_afterwards() -> None:
    model = make_model(layers=1)
    with torch.no_grad(), largest_activation(model) as found:
        model(torch.tensor([[5]]))
        before = found()
    model.lm_head.weight.data *= 1e6
    model(torch.tensor([[5]]))
    assert found() == before
