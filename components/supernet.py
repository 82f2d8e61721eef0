"""The supernet: the base, permuted once, with adapters that every shape shares. `activate` makes it a subnet in place.

On disk a supernet is its adapters and its selection; the base stays where its fingerprint says. The full shape runs
with adapters off: it is the base model, bit for bit (unless `adapters.adapt_full` asks for an in-place teacher).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from components import family
from components.elastic import ElasticModel
from components.lora import ExpertLinear
from components.selection import Selection
from components.shape import AnyShape, MixedShape, Shape, ShapeSpace, parse_shape
from components.smol import AdapterSettings, FixedGate, Gate, spread
from components.width import permute_neurons

FACTS_FILE = "supernet.json"


def space_of(facts: dict[str, Any]) -> ShapeSpace:
    """The shapes that a saved supernet was trained for, from its `supernet.json`."""
    mixed = tuple(shape for text in facts["mixed"] if isinstance(shape := parse_shape(text), MixedShape))
    return ShapeSpace(tuple(facts["depths"]), tuple(facts["widths_percent"]), mixed)


class Supernet(ElasticModel[ExpertLinear]):
    """Owns `model`: its linear layers are replaced and its neurons permuted."""

    def __init__(
        self,
        model: PreTrainedModel,
        selection: Selection,
        space: ShapeSpace,
        adapters: AdapterSettings,
        seed: int = 0,
    ) -> None:
        self.selection, self.space, self.settings = selection, space, adapters
        self.full = Shape(len(family.decoder_layers(model)), 100)
        self._check_space()
        permute_neurons(model, selection.widths.neuron_order_LF)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            super().__init__(model, lambda linear: ExpertLinear(linear, adapters).to(linear.weight.device))
        self.gate = self._gate()
        self.activate(self.full)

    def activate(self, shape: AnyShape) -> None:
        """Run as `shape` from now on; nothing is copied. Raises ValueError for a shape that cannot be cut."""
        self.run_as(self.selection.cut(shape))
        untouched = shape == self.full and not self.settings.adapt_full
        mixture_E = None if untouched else self.mixtures([shape])[0].to(self.model.device)
        for linear in self.linears.values():
            linear.mix(mixture_E)
        self.shape = shape

    @contextmanager
    def active(self, shape: AnyShape) -> Iterator[PreTrainedModel]:
        """`activate(shape)` for a while, then back to the shape before."""
        before = self.shape
        self.activate(shape)
        try:
            yield self.model
        finally:
            self.activate(before)

    def mixtures(self, shapes: Sequence[AnyShape]) -> Tensor:
        """How much each of the E experts adds to each of the S shapes, [S, E] on the CPU."""
        if self.settings.experts == 1:
            return torch.ones(len(shapes), 1)
        mixtures_SE: Tensor = self.gate(torch.stack([self._describe(shape) for shape in shapes]))
        return mixtures_SE

    def _describe(self, shape: AnyShape) -> Tensor:
        """Which layers attend and how wide their FFNs are, [2 L], each from 0 to 1."""
        described = torch.zeros(2, len(self._layers))
        for part in self.selection.cut(shape).layers:
            described[0, part.index] = part.attention
            described[1, part.index] = part.neurons / self.model.config.intermediate_size
        return described.flatten()

    def _gate(self) -> Gate | FixedGate:
        """Experts start at shapes far from each other: the largest student, the smallest, and those between."""
        students = [shape for shape in self.space.all if shape != self.full]
        described = [self._describe(shape) for shape in students]
        experts = self.settings.experts
        if experts == 1 or self.settings.gate == "uniform":
            return FixedGate(experts)
        if self.settings.gate == "one_a_shape":
            if experts != len(students):
                raise ValueError(f"one expert a shape takes adapters.experts: {len(students)}, got {experts}")
            return FixedGate(experts, torch.stack(described))
        return Gate(torch.stack([described[index] for index in spread(experts, described)]), self.settings.top_k)

    def trainable(self) -> dict[str, Tensor]:
        """The adapters' factors by name, `<layer>.<linear>.A` and `.B`, and the gate's parameters, `gate.<name>`."""
        factors = {
            f"{name}.{factor}": tensor
            for name, linear in self.linears.items()
            for factor, tensor in (("A", linear.A_ERI), ("B", linear.B_EOR))
        }
        return {**factors, **{f"gate.{name}": tensor for name, tensor in self.gate.named_parameters()}}

    def save(self, folder: Path, facts: dict[str, Any]) -> None:
        """Write adapters, selection and `facts` (anything JSON: the base's fingerprint, quality by shape).

        What every shape keeps is written out as `cuts`, [layer, attends, FFN neurons], for readers without torch.
        """
        self.selection.save(folder)
        save_file(
            {name: tensor.detach().cpu() for name, tensor in self.trainable().items()}, folder / "adapters.safetensors"
        )
        own = {
            "depths": self.space.depths,
            "widths_percent": self.space.widths_percent,
            "mixed": [str(shape) for shape in self.space.mixed],
            "adapters": vars(self.settings),
            "cuts": {
                str(shape): [[part.index, part.attention, part.neurons] for part in self.selection.cut(shape).layers]
                for shape in self.space.all
            },
        }
        (folder / FACTS_FILE).write_text(json.dumps({**facts, **own}, indent=1, sort_keys=True) + "\n")

    @classmethod
    def load(cls, folder: Path, model: PreTrainedModel) -> Supernet:
        """Open a saved supernet over its base; raises ValueError when the adapters do not fit the model."""
        facts = json.loads((folder / FACTS_FILE).read_text())
        supernet = cls(model, Selection.load(folder), space_of(facts), AdapterSettings(**facts["adapters"]))
        supernet.restore(load_file(folder / "adapters.safetensors"))
        return supernet

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Copy saved factors in; raises ValueError unless names and sizes are exactly this supernet's."""
        own = self.trainable()
        if {n: t.shape for n, t in own.items()} != {n: t.shape for n, t in tensors.items()}:
            raise ValueError("the saved adapters are of another base or another rank than this supernet")
        for name, tensor in own.items():
            tensor.copy_(tensors[name])

    def _check_space(self) -> None:
        deepest, available = self.space.depths[0], set(self.selection.choices)
        if deepest != self.full.depth or not set(self.space.depths) <= available:
            raise ValueError(
                f"depths {list(self.space.depths)} must start at the base's {self.full.depth} layers and stay at or above "
                f"the selection's {min(available)}"
            )
