"""A training step of two students against its arithmetic: how much of the time is matrix products.

    python -m benchmarks.training_speed

The products of a step are listed from the shapes that ran (teacher forward; students forward, and backward to the inputs and
to the adapters' factors), and each distinct one is timed alone in the same run, in the same precision, on tensors of its own
size. Their sum is the arithmetic's time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import Counter
from itertools import pairwise

import torch

from benchmarks import _record
from benchmarks._workspace import Workspace
from benchmarks.methods import ADAPTERS, TRAINING
from components.finetune import finetune
from components.lora import ElasticLinear
from components.shape import AnyShape, Shape, ShapeSpace
from components.supernet import Supernet

Product = tuple[int, int, int]
"""Rows, inputs and outputs."""


def products_of(made: Supernet, shape: AnyShape, tokens: int, *, taught: bool) -> Counter[Product]:
    """Matrix products of one forward pass, and with `taught` of its backward pass, head included."""
    counted: Counter[Product] = Counter()
    rank = made.settings.rank
    with made.active(shape) as model:
        for module in model.model.layers.modules():
            if isinstance(module, ElasticLinear):
                inputs, outputs = module.in_active, module.out_active
                counted[tokens, inputs, outputs] += 1
                if taught:
                    counted[tokens, outputs, inputs] += 1
                    # Down and up: forward, to the input, and to the factor itself.
                    counted[tokens, inputs, rank] += 2
                    counted[tokens, rank, outputs] += 2
                    counted[rank, tokens, inputs] += 1
                    counted[outputs, tokens, rank] += 1
        hidden, vocabulary = model.config.hidden_size, model.config.vocab_size
    counted[tokens, hidden, vocabulary] += 1
    if taught:
        counted[tokens, vocabulary, hidden] += 1
    return counted


def seconds_of(product: Product, dtype: torch.dtype) -> float:
    """The median of seven runs of one product."""
    rows, inputs, outputs = product
    left, right = torch.randn(rows, inputs).to(dtype), torch.randn(outputs, inputs).to(dtype)
    samples = []
    for _ in range(8):
        started = time.perf_counter()
        left @ right.T
        samples.append(time.perf_counter() - started)
    return statistics.median(samples[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=9)
    given = parser.parse_args()
    work = Workspace.of()
    chosen = work.selection()
    layers = len(chosen.blocks.by_layer)
    small, middle = chosen.mixed[53].shape, chosen.mixed[80].shape
    # Two shapes beside the full one: every step trains both.
    space = ShapeSpace((layers,), (100,), (middle, small))
    made = Supernet(work.model(), chosen, space, ADAPTERS)
    settings = TRAINING.__class__(**{**vars(TRAINING), "steps": given.steps})
    stamps = [time.perf_counter()]
    finetune(
        made,
        torch.from_numpy(work.data.train_WT),
        settings,
        on_step=lambda report: stamps.append(time.perf_counter()),
    )
    steps = [after - before for before, after in pairwise(stamps[1:])]
    tokens = settings.batch_size * work.data.train_WT.shape[1]
    counted = products_of(made, Shape(layers, 100), tokens, taught=False)
    for shape in (small, middle):
        counted += products_of(made, shape, tokens, taught=True)
    dtype = made.model.dtype
    arithmetic = sum(count * seconds_of(product, dtype) for product, count in counted.items())
    operations = sum(2 * rows * inputs * outputs * count for (rows, inputs, outputs), count in counted.items())
    step = statistics.median(steps)
    _record.table(
        ["what", "figure"],
        [
            ["a step, s (median)", step],
            ["its products alone, s", arithmetic],
            ["ratio", step / arithmetic],
            ["operations a step, G", operations / 1e9],
            ["products' rate, G/s", operations / arithmetic / 1e9],
        ],
    )
    _record.keep(
        "training_speed",
        {
            "step_s": steps,
            "step_median_s": step,
            "arithmetic_s": arithmetic,
            "ratio": step / arithmetic,
            "operations": operations,
            "precision": str(dtype),
            "tokens": tokens,
            "shapes": [str(small), str(middle)],
            "threads": torch.get_num_threads(),
        },
    )


if __name__ == "__main__":
    main()
