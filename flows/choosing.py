"""Which shape and quantization a target gets: every candidate predicted, the best within the budget chosen."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import edge_targets
from components import family
from components.calibration import Calibration
from components.latency import Cost, Load, Weights, predict
from components.search import CHOSEN, WORSE, Candidate, NothingFitsError, Verdict, choose
from components.shape import AnyShape, parse_shape
from flows.bases import Declared, parameters
from flows.work import JobError

if TYPE_CHECKING:
    from edge_targets._target import Budget, Quantization, Target


TOO_FAR = "is too far from its float subnet"
PASSED_OVER = "passed over: another shape in its quantization is too far from float"
_BUILT = "built, and "


@dataclass(frozen=True)
class Choice:
    """What is built for a target, and why nothing else was."""

    target: str
    shape: AnyShape
    quantization: str
    context_length: int
    """The one asked for, or the base's where that is shorter."""
    max_memory_mb: float
    verdicts: tuple[Verdict, ...]
    """Every candidate, best first."""

    @property
    def predicted(self) -> Candidate:
        """The candidate that is built."""
        return next(one.candidate for one in self.verdicts if one.reason == CHOSEN)

    @property
    def built(self) -> tuple[Verdict, ...]:
        """Candidates that were built and then refused."""
        return tuple(one for one in self.verdicts if one.reason.startswith(_BUILT))


def next_best(choice: Choice, refusal: str) -> Choice:
    """The choice once its candidate was built and refused; raises JobError with every refusal where none is left.

    Where a quantization was too far from float, the others come first: it is likely to be so in other shapes too.
    """
    verdicts = [replace(one, reason=f"{_BUILT}{refusal}") if one.reason == CHOSEN else one for one in choice.verdicts]
    too_far = {one.candidate.quantization for one in verdicts if one.reason.startswith(f"{_BUILT}{TOO_FAR}")}
    possible = [index for index, one in enumerate(verdicts) if one.reason in (WORSE, PASSED_OVER)]
    left = min(possible, key=lambda index: verdicts[index].candidate.quantization in too_far, default=None)
    if left is None:
        refused = "; ".join(f"{one.candidate.shape} {one.candidate.quantization} {one.reason}" for one in verdicts)
        raise JobError(f"{choice.target}: nothing holds what was predicted of it: {refused}")
    for index in possible:
        reason = CHOSEN if index == left else PASSED_OVER if index < left else WORSE
        verdicts[index] = replace(verdicts[index], reason=reason)
    candidate = verdicts[left].candidate
    return replace(choice, shape=candidate.shape, quantization=candidate.quantization, verdicts=tuple(verdicts))


def verification(quantization: str) -> dict[str, float]:
    """How close to its float subnet a package of this quantization must be to be published; from `params.yaml`."""
    limits = parameters()["verify"]
    return {**limits["default"], **limits.get(quantization, {})}


def unfit(quantization: Quantization) -> str | None:
    """Why no package of this quantization would pass verification, going by what is known of it."""
    least = verification(quantization.name)["min_top_1"]
    if quantization.top_1 >= least:
        return None
    return f"agrees with float on {quantization.top_1:.0%} of tokens, under {least:.0%}"


def context_for(config: Mapping[str, Any]) -> int:
    """The context length that is packaged: the one of `params.yaml`, or the base's where that is shorter."""
    return min(int(parameters()["package"]["context_length"]), family.longest_context(config))


def weights_of(target: Target, config: Mapping[str, Any], layers: Iterable[tuple[bool, int]]) -> Weights:
    """Of (attends, FFN neurons) of every kept layer, as the target keeps weights and cache."""
    return Weights.of(config, layers, cached_value_bytes=target.cached_value_bytes, ties=target.ties)


def choose_for(
    base: Declared,
    base_folder: Path,
    target_name: str,
    budget: Budget | None = None,
    calibrations: Mapping[str, Calibration] | None = None,
) -> Choice:
    """The best shape and quantization within a budget (the target's own when None); raises JobError when none fits.

    Costs are the device's by its figures; with `calibrations`, by quantization, they are this host's.
    """
    target = edge_targets.load(target_name)
    supernet = json.loads((base.artifacts / "supernet" / "supernet.json").read_text())
    config = json.loads((base_folder / "config.json").read_text())
    context = context_for(config)
    candidates, refused = [], []
    for text, perplexity in supernet["validation_perplexity"].items():
        shape = parse_shape(text)
        if target.refuses(shape):
            refused.append(f"{shape}: {target.refuses(shape)}")
            continue
        weights = weights_of(target, config, ((attends, neurons) for _, attends, neurons in supernet["cuts"][text]))
        for quantization in target.quantizations:
            load = Load.of(weights, quantization.linear_bits, quantization.embedding_bits, context)
            cost = _cost(target, quantization, load, calibrations)
            known = perplexity * quantization.perplexity_ratio
            candidates.append(Candidate(shape, quantization.name, known, cost, unfit(quantization)))
    if not candidates:
        raise JobError(f"{target.name} runs no shape of this supernet: {'; '.join(refused)}")
    usual = [candidate for candidate in candidates if candidate.quantization == target.quantizations[0].name]
    full = max((candidate.cost for candidate in usual), key=lambda cost: cost.size_mb)
    max_tpot_ms, max_memory_mb = (budget or target.budget).limits(full.tpot_ms, target.device.memory_mb)
    try:
        chosen, verdicts = choose(candidates, max_tpot_ms, max_memory_mb)
    except NothingFitsError as error:
        raise JobError(f"{target.name}: {error}") from error
    return Choice(target.name, chosen.shape, chosen.quantization, context, max_memory_mb, verdicts)


def _cost(
    target: Target, quantization: Quantization, load: Load, calibrations: Mapping[str, Calibration] | None
) -> Cost:
    if calibrations is not None:
        return calibrations[quantization.name].predict(load)
    return predict(load, target.device.bandwidth_gb_s, target.device.int8_gops)
