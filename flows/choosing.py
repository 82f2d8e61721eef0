"""Which shape and quantization a target gets: every candidate predicted, the best within the budget chosen."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import edge_targets
from components.latency import Weights, predict
from components.search import Candidate, NothingFitsError, Verdict, choose
from components.shape import AnyShape, parse_shape
from flows.bases import Declared, parameters
from flows.work import JobError

if TYPE_CHECKING:
    from edge_targets._target import Budget


@dataclass(frozen=True)
class Choice:
    """What is built for a target, and why nothing else was."""

    target: str
    shape: AnyShape
    quantization: str
    context_length: int
    """The one asked for, or the base's where that is shorter."""
    verdicts: tuple[Verdict, ...]


def choose_for(base: Declared, base_folder: Path, target_name: str, budget: Budget | None = None) -> Choice:
    """The best shape and quantization within a budget (the target's own when None); raises JobError when none fits."""
    target = edge_targets.load(target_name)
    supernet = json.loads((base.artifacts / "supernet" / "supernet.json").read_text())
    config = json.loads((base_folder / "config.json").read_text())
    context = min(parameters()["package"]["context_length"], config["max_position_embeddings"])
    candidates, refused = [], []
    for text, perplexity in supernet["validation_perplexity"].items():
        shape = parse_shape(text)
        if target.refuses(shape):
            refused.append(f"{shape}: {target.refuses(shape)}")
            continue
        weights = Weights.of(config, ((attends, neurons) for _, attends, neurons in supernet["cuts"][text]))
        for quantization in target.quantizations:
            cost = predict(
                weights,
                quantization.linear_bits,
                quantization.embedding_bits,
                target.device.bandwidth_gb_s,
                target.device.int8_gops,
                context,
            )
            known = perplexity * quantization.perplexity_ratio
            candidates.append(Candidate(shape, quantization.name, known, cost, quantization.top_1))
    if not candidates:
        raise JobError(f"{target.name} runs no shape of this supernet: {'; '.join(refused)}")
    usual = [candidate for candidate in candidates if candidate.quantization == target.quantizations[0].name]
    full = max((candidate.cost for candidate in usual), key=lambda cost: cost.size_mb)
    wanted = budget or target.budget
    try:
        chosen, verdicts = choose(
            candidates, *wanted.limits(full.tpot_ms, target.device.memory_mb), parameters()["verify"]["min_top_1"]
        )
    except NothingFitsError as error:
        raise JobError(f"{target.name}: {error}") from error
    return Choice(target.name, chosen.shape, chosen.quantization, context, verdicts)
