"""A finished search as the document that is published: members with their samples, and every other option with the reason."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from components.exploration import Exploration, Option
from edge_targets._device.bench import host
from edge_targets._device.machine import usable_cores
from flows.data import revision
from flows.explored import Considered, Explored, Member, Predicted, Reference, Samples
from flows.exploring import Built, Search


def document(search: Search, versions: Sequence[str]) -> Explored:
    """`versions` are those of the search's members, in their order."""
    start = search.ground
    return Explored(
        model=start.base.name,
        target=start.target,
        data_revision=revision("data", start.base),
        supernet_revision=revision("supernet", start.base),
        host={**host(), "threads": usable_cores(), "runtime": search.members[0].figures["runtime"]},
        reference=_reference(start.reference),
        members=tuple(
            Member(version, built.point, _predicted(search.exploration, built.option), _samples(built.figures))
            for version, built in zip(versions, search.members, strict=True)
        ),
        considered=tuple(_considered(search)),
    )


def _considered(search: Search) -> Iterator[Considered]:
    """Every option that is no member and why, of least predicted perplexity first."""
    exploration, members = search.exploration, {one.option for one in search.members}
    built = {one.option: one for one in search.built}
    left = [option for option in search.ground.start.options if option not in members]
    for forecast in sorted(map(exploration.forecast, left), key=lambda one: one.log_perplexity):
        option = forecast.option
        one = built.get(option)
        yield Considered(
            shape=option.outline.name,
            quantization=option.quantization,
            predicted=_predicted(exploration, option),
            reason=_reason(search, option, one),
            point=one.point if one else None,
        )


def _reason(search: Search, option: Option, built: Built | None) -> str:
    if option.unfit or option in search.failed:
        return option.unfit or f"could not be built: {search.failed[option]}"
    if built is None:
        return "not measured: others were expected to add more to the frontier"
    if built.refused:
        return f"measured, and {built.refused}"
    better = next(one for one in search.members if one.point.dominates(built.point))
    return f"measured, and {better.option.name} is no worse in anything"


def _predicted(exploration: Exploration, option: Option) -> Predicted:
    """What all but its own measurement say of an option."""
    forecast = exploration.without(option).forecast(option)
    cost = forecast.cost
    return Predicted(forecast.perplexity, cost.tpot_ms, cost.ttft_ms, cost.memory_mb, cost.machine)


def _samples(figures: dict[str, Any]) -> Samples:
    latency = figures["latency"]
    return Samples(
        ttft_ms={int(tokens): tuple(times) for tokens, times in latency["ttft_ms_samples"].items()},
        tpot_ms=tuple(latency["tpot_ms_samples"]),
        nats=tuple(figures["perplexity"]["nats"]),
        correct=tuple(figures["accuracy"]["correct"]),
    )


def _reference(quality: dict[str, Any]) -> Reference:
    return Reference(
        perplexity=quality["perplexity"]["value"],
        accuracy=quality["accuracy"]["value"],
        accuracy_interval=tuple(quality["accuracy"]["interval"]),
        nats=tuple(quality["perplexity"]["nats"]),
        correct=tuple(quality["accuracy"]["correct"]),
    )
