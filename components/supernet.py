"""The supernet: the base, permuted once, with adapters that every shape shares. `activate` makes it a subnet in place.

On disk a supernet is its adapters and its selection; the base stays where its fingerprint says. The full shape runs
with adapters off: it is the base model, bit for bit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from components import family
from components.lora import ElasticLinear
from components.selection import Selection
from components.shape import Shape, ShapeSpace
from components.width import permute_neurons

FACTS_FILE = "supernet.json"


class Supernet:
    """Owns `model`: its linear layers are replaced, its neurons permuted unless `permuted` says they are already."""

    def __init__(
        self, model: PreTrainedModel, selection: Selection, space: ShapeSpace, rank: int, alpha: float, seed: int = 0
    ) -> None:
        self.model, self.selection, self.space = model, selection, space
        self.rank, self.alpha = rank, alpha
        self._layers = family.decoder_layers(model)
        self.full = Shape(len(self._layers), 100)
        self._check_space()
        model.requires_grad_(False)
        permute_neurons(model, selection.widths.neuron_order_LF)
        self.adapters: dict[str, ElasticLinear] = {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for index, layer in enumerate(self._layers):
                for parent, name in family.linears(layer):
                    elastic = ElasticLinear(getattr(parent, name), rank, alpha).to(model.device)
                    setattr(parent, name, elastic)
                    self.adapters[f"{index}.{name}"] = elastic
        self.activate(self.full)

    def activate(self, shape: Shape) -> None:
        """Run as `shape` from now on; nothing is copied. Raises ValueError for a shape that cannot be cut."""
        cut = self.selection.cut(shape)
        kept = [self._layers[index] for index in cut.layers]
        for position, layer in enumerate(kept):
            layer.self_attn.layer_idx = position
            layer.mlp.gate_proj.out_active = cut.neurons
            layer.mlp.up_proj.out_active = cut.neurons
            layer.mlp.down_proj.in_active = cut.neurons
        for elastic in self.adapters.values():
            elastic.adapted = shape != self.full
        self.model.model.layers = nn.ModuleList(kept)
        self.model.config.num_hidden_layers = len(kept)
        self.shape = shape

    @contextmanager
    def active(self, shape: Shape) -> Iterator[PreTrainedModel]:
        """`activate(shape)` for a while, then back to the shape before."""
        before = self.shape
        self.activate(shape)
        try:
            yield self.model
        finally:
            self.activate(before)

    def layer(self, index: int) -> nn.Module:
        """Layer `index` of the base, active or not."""
        layer: nn.Module = self._layers[index]
        return layer

    def trainable(self) -> dict[str, Tensor]:
        """The adapters' factors by name, `<layer>.<linear>.A` and `.B`."""
        return {
            f"{name}.{factor}": tensor
            for name, elastic in self.adapters.items()
            for factor, tensor in (("A", elastic.A_RI), ("B", elastic.B_OR))
        }

    def save(self, folder: Path, facts: dict[str, Any]) -> None:
        """Write adapters, selection and `facts` (anything JSON: the base's fingerprint, quality by shape)."""
        self.selection.save(folder)
        save_file(
            {name: tensor.detach().cpu() for name, tensor in self.trainable().items()}, folder / "adapters.safetensors"
        )
        own = {
            "depths": self.space.depths,
            "widths_percent": self.space.widths_percent,
            "rank": self.rank,
            "alpha": self.alpha,
        }
        (folder / FACTS_FILE).write_text(json.dumps({**facts, **own}, indent=1, sort_keys=True) + "\n")

    @classmethod
    def load(cls, folder: Path, model: PreTrainedModel) -> Supernet:
        """Open a saved supernet over its base; raises ValueError when the adapters do not fit the model."""
        facts = json.loads((folder / FACTS_FILE).read_text())
        space = ShapeSpace(tuple(facts["depths"]), tuple(facts["widths_percent"]))
        supernet = cls(model, Selection.load(folder), space, facts["rank"], facts["alpha"])
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
