"""How long selection takes, and what the prefix cache saves.

    python -m benchmarks.selection_speed

Counts layer evaluations of the dynamic programme (30 layers, 1 kept, 14 dropped) with and without the cache; times it plain,
with the cache, and with the cache and early rejection, to the same table on the real base; and times width statistics and
the table of one-block scores. The plain recurrence runs every kept layer of every candidate.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from benchmarks import _record
from benchmarks._workspace import Workspace
from components import depth
from components.blocks import score_blocks
from components.prefix import ShapeMetric
from components.progress import progress
from components.readout import Divergence
from components.shape import MixedShape
from components.width import permute_neurons, score_widths

KEPT_LAST, MOST_DROPPED = 1, 14


class Plain(ShapeMetric):
    """The same metric from the first layer on, every time."""

    def _first_changed(self, shape: MixedShape) -> int:
        return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=512, help="calibration tokens for the two dynamic programmes")
    parser.add_argument("--width-windows", type=int, default=32, help="of training text for the width statistics")
    given = parser.parse_args()
    work = Workspace.of()
    model, tokens_BT = work.model(), work.calibration_BT
    started = time.perf_counter()
    scores = score_widths(model, work.width_text_WT(given.width_windows).split(1))
    width_s = time.perf_counter() - started
    permute_neurons(model, scores.neuron_order_LF)

    metric = ShapeMetric(model, tokens_BT, Divergence(tokens_BT, 4), neuron_multiple=64)
    started = time.perf_counter()
    score_blocks(metric, progress("one-block scores"))
    blocks_s = time.perf_counter() - started

    some_BT = tokens_BT.flatten()[: given.tokens].reshape(-1, min(given.tokens, tokens_BT.shape[1]))
    ours = _programme(ShapeMetric, model, some_BT, early=True)
    cached = _programme(ShapeMetric, model, some_BT, early=False)
    plain = _programme(Plain, model, some_BT, early=False)
    faster = {name: plain["seconds"] / one["seconds"] for name, one in (("cached", cached), ("ours", ours))}
    same = ours["dropped"] == cached["dropped"] == plain["dropped"]
    _record.table(
        ["what", "figure"],
        [
            ["width statistics, s", width_s],
            ["one-block scores, s", blocks_s],
            ["plain dynamic programme, s", plain["seconds"]],
            ["with the prefix cache, s", cached["seconds"]],
            ["and hopeless candidates rejected early, s", ours["seconds"]],
            ["layer evaluations, plain", plain["layer_evaluations"]],
            ["layer evaluations with the cache", cached["layer_evaluations"]],
            ["times faster with the cache", faster["cached"]],
            ["times faster with both", faster["ours"]],
            ["same table", same],
        ],
    )
    _record.keep(
        "selection_speed",
        {
            "width_statistics_s": width_s,
            "one_block_scores_s": blocks_s,
            "tokens": {"scores": tokens_BT.numel(), "dynamic programmes": some_BT.numel()},
            "dynamic_programme": {"ours": ours, "cached": cached, "plain": plain},
            "times_faster": faster,
            "same_table": same,
            "threads": torch.get_num_threads(),
        },
    )


def _programme(kind: type[ShapeMetric], model: PreTrainedModel, tokens_BT: Tensor, *, early: bool) -> dict[str, Any]:
    metric = kind(model, tokens_BT, Divergence(tokens_BT, 4), neuron_multiple=64)
    advance, done = progress(f"dynamic programme, {kind.__name__}"), 0
    total = len(list(depth.stages(metric.layers, KEPT_LAST, MOST_DROPPED)))

    def evaluated() -> None:
        nonlocal done
        done += 1
        advance(done, total)

    metric.dropping(frozenset())  # the full model, which is no candidate
    metric.layer_evaluations = 0
    patient = metric.dropping if early else lambda dropped, good_enough: metric.dropping(dropped)
    started = time.perf_counter()
    table = depth.choose_layers(metric.layers, KEPT_LAST, MOST_DROPPED, patient, evaluated)
    return {
        "seconds": time.perf_counter() - started,
        "layer_evaluations": metric.layer_evaluations,
        "dropped": [sorted(dropped) for dropped in table.dropped],
    }


if __name__ == "__main__":
    main()
