"""A workspace's view of an exploration: every option of a target, what was measured of it, and what is known before.

What was measured is found in the workspace's cache, whoever had it measured: a search that was killed, or one for fewer points,
goes on from there and measures nothing twice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import edge_targets
from components.calibration import Run
from components.exploration import Exploration, Option, Outcome, Prior
from components.frontier import Point, undominated
from components.latency import Load
from components.quality import Outline, features
from components.quiet import quiet_libraries
from components.shape import AnyShape, parse_shape
from flows import choosing, measuring, packaging
from flows.bases import Declared
from flows.choosing import Choice


@dataclass(frozen=True)
class Built:
    """One option's package with all that was measured of it."""

    option: Option
    choice: Choice
    point: Point
    figures: dict[str, Any] = field(repr=False, compare=False)
    refused: str | None
    """Why it is not fit to be published, None where it is."""

    @property
    def outcome(self) -> Outcome:
        run = Run(self.option.load, self.point.ttft_ms, self.point.tpot_ms, self.point.memory_mb)
        return Outcome(self.option, self.point.known_perplexity, run, self.refused)


@dataclass(frozen=True)
class Ground:
    """All that a search for one target stands on."""

    base: Declared
    target: str
    context_length: int
    start: Exploration
    """Before anything was measured."""
    reference: dict[str, Any]
    """The full float model's quality, as `measuring.reference` has it."""

    def built(self) -> tuple[Built, ...]:
        """Every option whose measurement is in the cache and is one, in the options' order."""
        names, found = measuring.measured_names(), []
        for option in self.start.options:
            named = (option.outline.name, option.quantization) in names
            if named and measuring.is_measured(self.base, self.choice(option)):
                with suppress(measuring.NoNumberError):
                    found.append(self.build(option))
        return tuple(found)

    def build(self, option: Option) -> Built:
        """Build and measure one option; what is in the cache is taken from there. Raises JobError."""
        choice = self.choice(option)
        point, figures = measuring.examine(self.base, choice)
        refused = measuring.refusal(choice, packaging.package_for(self.base, choice), figures)
        return Built(option, choice, point, figures, refused)

    def choice(self, option: Option) -> Choice:
        device = edge_targets.load(self.target).device
        shape = parse_shape(option.outline.name)
        return Choice(self.target, shape, option.quantization, self.context_length, device.memory_mb, ())


@dataclass(frozen=True)
class Search:
    """A search as far as it went; a value, which every measurement makes anew."""

    ground: Ground
    built: tuple[Built, ...]
    failed: Mapping[Option, str] = field(default_factory=dict)
    """What could not be built, with the reason."""

    @classmethod
    def of(cls, ground: Ground) -> Search:
        """From where earlier searches left it."""
        return cls(ground, ground.built())

    def with_built(self, built: Built) -> Search:
        return replace(self, built=(*self.built, built))

    def with_failed(self, option: Option, reason: str) -> Search:
        return replace(self, failed={**self.failed, option: reason})

    @cached_property
    def exploration(self) -> Exploration:
        # In one order, whatever was built first: a sum's last digits depend on it, and a resumed search forecasts the same.
        built = sorted(self.built, key=lambda one: self.ground.start.options.index(one.option))
        outcomes = tuple(one.outcome for one in built)
        return replace(self.ground.start, outcomes=outcomes, failed=frozenset(self.failed))

    @property
    def tried(self) -> int:
        return len(self.built) + len(self.failed)

    @property
    def members(self) -> tuple[Built, ...]:
        """What holds and is undominated, the fastest first."""
        by_point = {one.point: one for one in self.built if one.refused is None}
        return tuple(by_point[point] for point in undominated(by_point))


def ground(base: Declared, base_folder: Path, target_name: str) -> Ground:
    """The options of a target that runs here, and what is known of them before anything is built."""
    quiet_libraries()
    from components.candidates import shapes
    from components.selection import Selection
    from components.supernet import FACTS_FILE, space_of

    target, folder = edge_targets.load(target_name), base.artifacts / "supernet"
    config = json.loads((base_folder / "config.json").read_text())
    selection, facts = Selection.load(folder), json.loads((folder / FACTS_FILE).read_text())
    space, context = space_of(facts), choosing.context_for(config)

    def outline(shape: AnyShape) -> Outline:
        return Outline.of(str(shape), selection.cut(shape), selection.blocks, config["intermediate_size"])

    options = []
    for shape, cut in shapes(space, selection, config).items():
        if target.refuses(shape) is None:
            own = outline(shape)
            weights = choosing.weights_of(target, config, ((layer.attention, layer.neurons) for layer in cut.layers))
            for one in target.quantizations:
                load = Load.of(weights, one.linear_bits, one.embedding_bits, context)
                options.append(Option(one.name, own, load, choosing.unfit(one)))
    reference = measuring.reference(base, base_folder)
    validated = [(features(outline(shape), None, evaluation=False), perplexity) for shape, perplexity in _known(facts)]
    whole = (features(outline(space.largest), None, evaluation=True), reference["perplexity"]["value"])
    prior = Prior(
        known=(*validated, whole),
        ratios={one.name: one.perplexity_ratio for one in target.quantizations},
        bandwidth_gb_s=target.device.bandwidth_gb_s,
        int8_gops=target.device.int8_gops,
    )
    return Ground(base, target_name, context, Exploration(tuple(options), prior), reference)


def _known(facts: dict[str, Any]) -> list[tuple[AnyShape, float]]:
    return [(parse_shape(text), perplexity) for text, perplexity in facts["validation_perplexity"].items()]
