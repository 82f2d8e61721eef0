"""Which layers and neurons every shape keeps: the outcome of stage 1, and all that a shape needs to become a subnet.

Legend: L layers, F FFN neurons, G key-value groups.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from components import depth, family
from components.knapsack import Knapsack, Option
from components.prefix import DropMetric
from components.shape import Shape
from components.width import Metric, WidthScores, permute_neurons, score_widths


@dataclass(frozen=True)
class SelectionSettings:
    """Numbers of `params.yaml` that decide a selection."""

    min_depth: int
    kept_last: int
    position_stride: int
    width_metric: Metric
    neuron_multiple: int


@dataclass(frozen=True)
class Cut:
    """What one shape keeps of the permuted base: layer indices, and the first `neurons` of each layer's FFN."""

    layers: tuple[int, ...]
    neurons: int


@dataclass(frozen=True)
class DepthChoice:
    """The layers kept at one depth, the KL that costs without training (nats), and what the two searches reached."""

    layers: tuple[int, ...]
    kl: float
    kl_dynamic_programme: float
    kl_knapsack: float


@dataclass(frozen=True)
class Selection:
    choices: Mapping[int, DepthChoice]
    """One for every depth from the smallest to the full one."""
    layer_scores: tuple[float, ...]
    """KL of the full model with only that layer dropped, nats."""
    widths: WidthScores
    neuron_multiple: int

    def cut(self, shape: Shape) -> Cut:
        """Raises ValueError for a depth outside of what was selected."""
        if shape.depth not in self.choices:
            raise ValueError(
                f"layers were chosen for depths {min(self.choices)} to {max(self.choices)}, not for {shape.depth}; "
                "lower selection.min_depth in params.yaml"
            )
        neurons = shape.neurons(self.widths.neuron_scores_LF.shape[1], self.neuron_multiple)
        return Cut(self.choices[shape.depth].layers, neurons)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {"neuron_scores": self.widths.neuron_scores_LF, "group_scores": self.widths.group_scores_LG},
            folder / "scores.safetensors",
        )
        facts = {
            "neuron_multiple": self.neuron_multiple,
            "layer_scores": self.layer_scores,
            "choices": {depth: vars(choice) for depth, choice in self.choices.items()},
        }
        (folder / "selection.json").write_text(json.dumps(facts, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Selection:
        facts = json.loads((folder / "selection.json").read_text())
        scores = load_file(folder / "scores.safetensors")
        return cls(
            choices={
                int(depth): DepthChoice(**{**choice, "layers": tuple(choice["layers"])})
                for depth, choice in facts["choices"].items()
            },
            layer_scores=tuple(facts["layer_scores"]),
            widths=WidthScores(scores["neuron_scores"], scores["group_scores"]),
            neuron_multiple=facts["neuron_multiple"],
        )


def select(
    model: PreTrainedModel,
    calibration_BT: Tensor,
    settings: SelectionSettings,
    memory: Path | None = None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Selection:
    """Score widths, permute `model`'s neurons by them, and choose the layers of every depth.

    `memory` is a file of metrics already known, so that a killed selection goes on; it must belong to these inputs.
    """
    widths = score_widths(model, calibration_BT.split(1), settings.width_metric)
    permute_neurons(model, widths.neuron_order_LF)
    metric = DropMetric(model, calibration_BT, settings.position_stride, memory)
    layers = len(family.decoder_layers(model))
    if not 1 <= settings.min_depth <= layers:
        raise ValueError(f"selection.min_depth must be 1 to the base's {layers} layers, got {settings.min_depth}")
    layer_scores = []
    for layer in range(layers):
        layer_scores.append(metric(frozenset({layer})))
        progress("one-block scores", layer + 1, layers)
    metric.save()
    table = _dynamic_programme(metric, layers, settings, progress)
    by_score = _knapsack(layer_scores, settings)
    choices = {}
    for depth_kept in range(layers, settings.min_depth - 1, -1):
        programme = table.dropped[layers - depth_kept]
        alone = by_score(depth_kept)
        kl_programme, kl_alone = metric(programme), metric(alone)
        dropped, kl = (programme, kl_programme) if kl_programme <= kl_alone else (alone, kl_alone)
        kept = tuple(index for index in range(layers) if index not in dropped)
        choices[depth_kept] = DepthChoice(kept, kl, kl_programme, kl_alone)
    metric.save()
    return Selection(choices, tuple(layer_scores), widths, settings.neuron_multiple)


def _dynamic_programme(
    metric: DropMetric, layers: int, settings: SelectionSettings, progress: Callable[[str, int, int], None]
) -> depth.DepthTable:
    kept_last = min(settings.kept_last, settings.min_depth)
    total = len(list(depth.stages(layers, kept_last, layers - settings.min_depth)))
    done = 0

    def evaluated() -> None:
        nonlocal done
        done += 1
        progress("dynamic programme", done, total)
        if done % 20 == 0:
            metric.save()

    return depth.choose_layers(layers, kept_last, layers - settings.min_depth, metric, evaluated)


def _knapsack(layer_scores: list[float], settings: SelectionSettings) -> Callable[[int], depth.Dropped]:
    """Layers to drop for a depth by their one-block scores: an item a layer, kept at cost 1 or dropped at cost 0."""
    last_kept = len(layer_scores) - min(settings.kept_last, settings.min_depth)
    kept = Option(cost=1, score=0.0)
    items = [
        [kept, Option(cost=0, score=score)] if index < last_kept else [kept] for index, score in enumerate(layer_scores)
    ]
    knapsack = Knapsack(items, len(layer_scores))
    return lambda budget: frozenset(index for index, option in enumerate(knapsack.choose(budget)) if option == 1)
