"""Choosing again after the fine-tune: swaps on the trained supernet's own metric, against the shapes chosen before it.

    python -m benchmarks.again --swaps 24

The new shapes were never trained themselves; their adapters are what the gate mixes for them. Perplexity is on validation and
on evaluation text.
"""

from __future__ import annotations

import argparse
import math

import torch
from torch import Tensor

from benchmarks import _record
from benchmarks._workspace import Workspace
from components import family
from components.blocks import AnyBudget
from components.evaluate import perplexity
from components.progress import progress
from components.reference import logits_of
from components.selection import Selection
from components.shape import MixedShape
from components.supernet import Supernet

STRIDE = 4


class TrainedMetric:
    """KL of a trained shape to the full model, nats a token."""

    def __init__(self, supernet: Supernet, tokens_BT: Tensor) -> None:
        self.layers = supernet.full.depth
        self._supernet, self._tokens_BT = supernet, tokens_BT
        with supernet.active(supernet.full):
            self._teacher_BSV = self._log_probabilities()

    def __call__(self, shape: MixedShape, good_enough: float = math.inf) -> float:
        with self._supernet.active(shape):
            student_BSV = self._log_probabilities()
        return float((self._teacher_BSV.exp() * (self._teacher_BSV - student_BSV)).sum(-1).mean())

    @torch.no_grad()
    def _log_probabilities(self) -> Tensor:
        model = self._supernet.model
        hidden_BTH = model.model(input_ids=self._tokens_BT, use_cache=False).last_hidden_state
        logits_BSV: Tensor = model.lm_head(hidden_BTH[:, STRIDE - 1 :: STRIDE])
        return logits_BSV.float().log_softmax(-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--swaps", type=int, default=24)
    given = parser.parse_args()
    work = Workspace.of()
    made = Supernet.load(work.supernet_folder, work.model())
    chosen, config = Selection.load(work.supernet_folder), made.model.config.to_dict()
    attention, neuron = family.attention_weights(config), family.neuron_weights(config)
    intermediate, multiple = made.model.config.intermediate_size, chosen.neuron_multiple
    search = AnyBudget(
        chosen.blocks, lambda layer: attention * layer.attention + neuron * layer.neurons(intermediate, multiple)
    )
    metric = TrainedMetric(made, work.calibration_BT)

    def measured(shape: MixedShape) -> list[float]:
        with made.active(shape) as model:
            logits = logits_of(model)
            texts = (work.data.validation_WT.tolist(), work.evaluation_windows)
            return [metric(shape), *(perplexity(logits, text).value for text in texts)]

    rows = []
    for percent, choice in chosen.mixed.items():
        budget = search.full * percent / 100
        again = search.repair(choice.shape, budget, metric, given.swaps, progress(f"swaps at {percent} %"))
        rows += [
            [f"{percent} %", when, str(shape), *measured(shape)]
            for when, shape in (("before", choice.shape), ("after", again))
        ]
    header = ["budget", "chosen", "shape", "KL, calibration", "perplexity, validation", "perplexity, evaluation"]
    _record.table(header, rows)
    _record.keep("again", {"header": header, "rows": rows, "swaps": given.swaps})


if __name__ == "__main__":
    main()
