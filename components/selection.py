"""Which layers and neurons every shape keeps: the outcome of stage 1, and all that a shape needs to become a subnet.

Legend: L layers, F FFN neurons, G key-value groups.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path
from typing import Any, get_args

from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from components import depth, family
from components.blocks import AnyBudget, BlockScores, score_blocks
from components.evaluate import Question
from components.prefix import ShapeMetric
from components.readout import MetricName, readout_of
from components.shape import GONE, AnyShape, LayerShape, MixedShape, parse_shape
from components.width import Metric as WidthMetric
from components.width import WidthScores, permute_neurons, score_widths

_FEWEST_TOKENS = 64


@dataclass(frozen=True)
class SelectionSettings:
    """What decides a selection: the supernet's smallest depth, and numbers of `params.yaml`."""

    min_depth: int
    kept_last: int
    position_stride: int
    width_metric: WidthMetric
    neuron_multiple: int
    width_windows: int = 0
    """Windows of training text that neurons are scored on: a score each takes more text than a shape. 0: the calibration text."""
    metric: MetricName = "kl"
    both_directions: bool = False
    budgets_percent: Sequence[int] = ()
    """Of the block parameters: a mixed shape is chosen for each."""
    swaps: int = 0
    """Swaps tried on the true metric to repair each mixed shape."""

    def __post_init__(self) -> None:
        if self.metric not in get_args(MetricName):
            raise ValueError(f"selection.metric is one of {', '.join(get_args(MetricName))}, got {self.metric!r}")
        if self.width_windows < 0:
            raise ValueError(f"selection.width_windows must be 0 or more, got {self.width_windows}")
        if not all(1 <= percent < 100 for percent in self.budgets_percent):
            raise ValueError(f"selection.budgets_percent are 1 to 99 percent, got {list(self.budgets_percent)}")

    @property
    def never_dropped(self) -> int:
        """How many of the last layers every shape keeps; no more than the smallest depth has."""
        return min(self.kept_last, self.min_depth)


@dataclass(frozen=True)
class LayerCut:
    """A layer of the base that stays: `attention` or not, and the first `neurons` of its FFN."""

    index: int
    attention: bool
    neurons: int


@dataclass(frozen=True)
class Cut:
    """What one shape keeps of the permuted base, shallow to deep."""

    layers: tuple[LayerCut, ...]

    @property
    def uniform_neurons(self) -> int | None:
        """FFN neurons a layer where every layer attends and all are as wide; None for what the base's class cannot be."""
        widths = {layer.neurons if layer.attention else None for layer in self.layers}
        return widths.pop() if len(widths) == 1 else None


@dataclass(frozen=True)
class DepthChoice:
    """The layers kept at one depth, the selection's metric of that without training, and what the two searches reached."""

    layers: tuple[int, ...]
    loss: float
    loss_dynamic_programme: float
    loss_knapsack: float


@dataclass(frozen=True)
class MixedChoice:
    """The shape chosen for a budget, the selection's metric of it without training, and before the swaps that repaired it."""

    shape: MixedShape
    loss: float
    loss_before_swaps: float


@dataclass(frozen=True)
class Selection:
    """The outcome of stage 1."""

    choices: Mapping[int, DepthChoice]
    """One for every depth from the smallest to the full one."""
    mixed: Mapping[int, MixedChoice]
    """One for every budget asked for, in percent of the block parameters."""
    blocks: BlockScores
    """The metric of the full model with one layer cut to a shape."""
    widths: WidthScores
    neuron_multiple: int
    metric: MetricName
    """What every loss here is: nats a token, or the share of wrong answers."""

    def cut(self, shape: AnyShape) -> Cut:
        """Raises ValueError for a depth outside of what was selected, or a mixed shape of another number of layers."""
        intermediate = self.widths.neuron_scores_LF.shape[1]
        if isinstance(shape, MixedShape):
            if len(shape.layers) != len(self.blocks.by_layer):
                raise ValueError(f"{shape} is of {len(shape.layers)} layers, the base has {len(self.blocks.by_layer)}")
            kept = enumerate(shape.layers)
            return Cut(
                tuple(
                    LayerCut(index, layer.attention, layer.neurons(intermediate, self.neuron_multiple))
                    for index, layer in kept
                    if not layer.gone
                )
            )
        if shape.depth not in self.choices:
            raise ValueError(
                f"layers were chosen for depths {min(self.choices)} to {max(self.choices)}, not for {shape.depth}; "
                "name a lower one in supernet.depths_percent of params.yaml"
            )
        neurons = shape.neurons(intermediate, self.neuron_multiple)
        return Cut(tuple(LayerCut(index, True, neurons) for index in self.choices[shape.depth].layers))

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {"neuron_scores": self.widths.neuron_scores_LF, "group_scores": self.widths.group_scores_LG},
            folder / "scores.safetensors",
        )
        facts = {
            "neuron_multiple": self.neuron_multiple,
            "metric": self.metric,
            "blocks": [{str(option): score for option, score in known.items()} for known in self.blocks.by_layer],
            "choices": {depth: vars(choice) for depth, choice in self.choices.items()},
            "mixed": {percent: {**vars(choice), "shape": str(choice.shape)} for percent, choice in self.mixed.items()},
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
            mixed={
                int(percent): MixedChoice(**{**choice, "shape": parse_shape(choice["shape"])})
                for percent, choice in facts["mixed"].items()
            },
            blocks=BlockScores(
                tuple({LayerShape.parse(option): score for option, score in known.items()} for known in facts["blocks"])
            ),
            widths=WidthScores(scores["neuron_scores"], scores["group_scores"]),
            neuron_multiple=facts["neuron_multiple"],
            metric=facts["metric"],
        )


def select(
    model: PreTrainedModel,
    calibration_BT: Tensor,
    settings: SelectionSettings,
    memory: Path | None = None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
    width_text_WT: Tensor | None = None,
    questions: Sequence[Question] = (),
) -> Selection:
    """Score widths, permute `model`'s neurons by them, score every block, and choose depths and mixed shapes.

    Widths are scored on `width_text_WT` where it is given, all else on the calibration text, or on `questions` where the metric
    is of questions.
    `memory` is a file of metrics already known, so that a killed selection goes on; it must belong to these inputs.
    """
    layers = len(family.decoder_layers(model))
    if layers < 2:
        raise ValueError(f"the base has {layers} layer, and a supernet is cut from 2 or more")
    if not 1 <= settings.min_depth <= layers:
        raise ValueError(f"the smallest depth must be 1 to the base's {layers} layers, got {settings.min_depth}")
    if calibration_BT.numel() < _FEWEST_TOKENS:
        raise ValueError(
            f"selection reads {calibration_BT.numel()} calibration tokens and needs at least {_FEWEST_TOKENS} for scores that "
            "mean anything; raise data.calibration_windows in params.yaml"
        )
    family.check_layers(model)
    width_text_WT = calibration_BT if width_text_WT is None else width_text_WT
    widths = score_widths(
        model, width_text_WT.split(1), settings.width_metric, partial(progress, "what neurons are worth")
    )
    permute_neurons(model, widths.neuron_order_LF)
    readout, read_BT = readout_of(settings.metric, calibration_BT, settings.position_stride, questions)
    metric = ShapeMetric(model, read_BT, readout, settings.neuron_multiple, memory)
    blocks = score_blocks(metric, partial(progress, "one-block scores"))
    choices = _depths(metric, blocks, settings, progress)
    mixed = _mixed(metric, blocks, settings, model.config.to_dict(), progress)
    return Selection(choices, mixed, blocks, widths, settings.neuron_multiple, settings.metric)


def _depths(
    metric: ShapeMetric,
    blocks: BlockScores,
    settings: SelectionSettings,
    progress: Callable[[str, int, int], None],
) -> dict[int, DepthChoice]:
    """The better of the dynamic programme's layers and those of least one-block score, for every depth."""
    layers = metric.layers
    table = _dynamic_programme(metric, settings, progress)
    scores = [known[GONE] for known in blocks.by_layer]
    droppable = layers - settings.never_dropped
    choices = {}
    for depth_kept in range(layers, settings.min_depth - 1, -1):
        programme = table.dropped[layers - depth_kept]
        alone = depth.of_least_score(scores[:droppable], layers - depth_kept)
        loss_programme, loss_alone = metric.dropping(programme), metric.dropping(alone)
        dropped = programme if loss_programme <= loss_alone else alone
        kept = tuple(index for index in range(layers) if index not in dropped)
        choices[depth_kept] = DepthChoice(kept, min(loss_programme, loss_alone), loss_programme, loss_alone)
    return choices


def _mixed(
    metric: ShapeMetric,
    blocks: BlockScores,
    settings: SelectionSettings,
    config: Mapping[str, Any],
    progress: Callable[[str, int, int], None],
) -> dict[int, MixedChoice]:
    """A mixed shape for every budget of block parameters, repaired by swaps."""
    attention, neuron = family.attention_weights(config), family.neuron_weights(config)
    intermediate, multiple = config["intermediate_size"], settings.neuron_multiple
    search = AnyBudget(
        blocks,
        lambda layer: attention * layer.attention + neuron * layer.neurons(intermediate, multiple),
        settings.never_dropped,
    )
    chosen = {}
    for percent in settings.budgets_percent:
        budget = search.full * percent / 100
        first = search.choose(budget)
        what = f"swaps at {percent} % of the block parameters"
        shape = search.repair(first, budget, metric, settings.swaps, partial(progress, what))
        chosen[percent] = MixedChoice(shape, metric(shape), metric(first))
    return chosen


def _dynamic_programme(
    metric: ShapeMetric, settings: SelectionSettings, progress: Callable[[str, int, int], None]
) -> depth.DepthTable:
    layers, kept_last = metric.layers, settings.never_dropped
    most = layers - settings.min_depth
    directions = (False, True) if settings.both_directions else (False,)
    total = len(list(depth.stages(layers, kept_last, most))) * len(directions)
    done = 0

    def evaluated() -> None:
        nonlocal done
        done += 1
        progress("dynamic programme", done, total)

    tables = [
        depth.choose_layers(layers, kept_last, most, metric.dropping, evaluated, shallow_first=shallow_first)
        for shallow_first in directions
    ]
    return reduce(depth.DepthTable.or_better, tables)
