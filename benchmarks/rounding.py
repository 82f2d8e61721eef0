"""What weights of 4 bits cost: rounded to nearest, and rounded on little and on much calibration text.

    python -m benchmarks.rounding

The full model with float activations, layers in blocks of 32; then embedding and head in 4 bits as well.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from benchmarks import _record
from benchmarks._workspace import Workspace
from components.evaluate import agreement, perplexity
from components.progress import say
from components.reference import load_checkpoint, logits_of
from components.shape import Shape
from edge_targets import _onnx_blocks
from edge_targets._rounding import calibrated, gptq
from edge_targets._target import Grid, PackageRequest

BITS, BLOCK = 4, 32


def set_weights(model: PreTrainedModel, weights: Mapping[str, Tensor]) -> PreTrainedModel:
    with torch.no_grad():
        for name, weight_NK in weights.items():
            model.get_parameter(f"{name}.weight").copy_(weight_NK)
    return model


def nearest(model: PreTrainedModel) -> dict[str, Tensor]:
    """Every layer's weight as round-to-nearest keeps it."""
    kept = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            packed_NBC, scales_NB = _onnx_blocks.quantize(module.weight.detach().numpy(), BITS, BLOCK)
            codes_NBK = np.stack([packed_NBC & 15, packed_NBC >> 4], -1).reshape(*scales_NB.shape, BLOCK)
            kept_NBK = (codes_NBK.astype(np.float32) - (1 << (BITS - 1))) * scales_NB[..., None]
            kept[name] = torch.from_numpy(kept_NBK.reshape(len(packed_NBC), -1))
    return kept


@torch.no_grad()
def rounded_table(model: PreTrainedModel, tokens_WT: Tensor) -> Tensor:
    """The tied embedding and head in 4 bits too, rounded for what the head reads."""
    states_TH = model.model(input_ids=tokens_WT, use_cache=False).last_hidden_state.flatten(0, 1)
    unit_TH = torch.nn.functional.normalize(states_TH, dim=1)
    weight_VH = model.get_parameter("model.embed_tokens.weight")
    codes_VH, scales_VB = gptq(weight_VH, unit_TH.T @ unit_TH / len(unit_TH), Grid(BITS, BLOCK))
    return codes_VH * scales_VB.repeat_interleave(BLOCK, dim=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, nargs="+", default=[8, 16, 32, 64], help="of calibration text")
    given = parser.parse_args()
    work = Workspace.of()
    text = work.evaluation_windows

    def float_model() -> PreTrainedModel:
        return load_checkpoint(work.base.folder)

    full = logits_of(float_model())
    full_perplexity = perplexity(full, text).value
    outcomes: list[dict[str, Any]] = []

    def measure(how: str, model: PreTrainedModel, seconds: float) -> None:
        value = perplexity(logits_of(model), text).value
        close = asdict(agreement(logits_of(model), full, text))
        outcomes.append({"how": how, "perplexity": value, "x": value / full_perplexity, **close, "CPU s": seconds})

    say("benchmark: round to nearest")
    measure("round to nearest", set_weights(float_model(), nearest(float_model())), 0.0)
    weights: dict[str, Tensor] = {}
    for windows in given.windows:
        say(f"benchmark: calibrated on {windows} windows")
        request = PackageRequest(work.base.folder, Shape(1, 100), "int4", 256, work.data.spread(windows))
        started = time.process_time()
        found = calibrated(request, Grid(BITS, BLOCK))
        seconds = time.process_time() - started
        weights = {
            name: torch.from_numpy(one.codes_NK * np.repeat(one.scales_NB, BLOCK, axis=1))
            for name, one in found.items()
        }
        measure(f"calibrated, {windows} windows", set_weights(float_model(), weights), seconds)
    say("benchmark: embedding and head too")
    tokens_WT = torch.from_numpy(work.data.spread(given.windows[-1])).long()
    table = {"model.embed_tokens": rounded_table(float_model(), tokens_WT)}
    measure("the last, embedding and head too", set_weights(float_model(), {**weights, **table}), 0.0)
    print(f"\nAgainst the full model's perplexity of {full_perplexity:.2f}\n")
    _record.table(list(outcomes[0]), [list(found.values()) for found in outcomes])
    _record.keep("rounding", {"full": full_perplexity, "outcomes": outcomes})


if __name__ == "__main__":
    main()
