"""Several shapes of one supernet in one file, for a device that changes its level while it runs.

Shapes nest, so the permuted base is there once and every level adds only its low-rank update and what it keeps of each layer
(ElastiLM, arXiv 2409.09071, section 3). The file is mapped, not read: bytes come in as they are used, and changing the level
allocates nothing but Python objects.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from components.base import Base, complete_texts
from components.elastic import ElasticModel
from components.lora import ElasticLinear
from components.selection import Cut, LayerCut
from components.shape import AnyShape
from components.supernet import Supernet

WEIGHTS_FILE, LEVELS_FILE = "levels.safetensors", "levels.json"


@torch.no_grad()
def save_levels(supernet: Supernet, shapes: Sequence[AnyShape], folder: Path, base: Base | None = None) -> None:
    """Write a folder of `shapes`, in the supernet's precision; with `base`, its tokenizer and texts too."""
    folder.mkdir(parents=True, exist_ok=True)
    levels, tensors = {}, {}
    for shape in shapes:
        with supernet.active(shape):
            for name, linear in supernet.linears.items():
                factors = linear.factors()
                if factors is not None and linear.in_active and linear.out_active:
                    for factor, tensor in zip("AB", factors, strict=True):
                        # A copy: plain LoRA's factors are the same memory in every level, which a file cannot hold.
                        own = tensor.to(supernet.model.dtype).cpu().clone(memory_format=torch.contiguous_format)
                        tensors[f"level/{shape}/{name}.{factor}"] = own
        levels[str(shape)] = [[p.index, p.attention, p.neurons] for p in supernet.selection.cut(shape).layers]
    with supernet.active(supernet.full) as full:
        full.config.save_pretrained(folder)
        full.generation_config.save_pretrained(folder)
        for name, parameter in full.named_parameters():
            if not name.endswith(("A_ERI", "B_EOR")):
                plain = name.replace(".weight_OI", ".weight").replace(".bias_O", ".bias")
                tensors[plain] = parameter.detach().contiguous().cpu()
    save_file(tensors, folder / WEIGHTS_FILE)
    (folder / LEVELS_FILE).write_text(json.dumps(levels, indent=1) + "\n")
    if base is not None:
        complete_texts(base, folder)


class Levels(ElasticModel[ElasticLinear]):
    """An opened folder of levels; `activate` makes `model` run as one of them."""

    def __init__(self, folder: Path) -> None:
        given = json.loads((folder / LEVELS_FILE).read_text())
        self.cuts = {name: Cut(tuple(LayerCut(*part) for part in parts)) for name, parts in given.items()}
        config = AutoConfig.from_pretrained(folder)
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
        # Rotary frequencies are computed, not stored.
        model.model.rotary_emb = type(model.model.rotary_emb)(config)
        with safe_open(folder / WEIGHTS_FILE, "pt") as file:
            self._tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        for name, _ in list(model.named_parameters()):
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, nn.Parameter(self._tensors[name], requires_grad=False))
        model.tie_weights()
        super().__init__(model.eval(), ElasticLinear)
        self.activate(next(iter(self.cuts)))

    def activate(self, name: str) -> None:
        """Run as the level `name` from now on; raises ValueError naming the levels there are."""
        if name not in self.cuts:
            raise ValueError(f"there is no level {name}; there are {', '.join(self.cuts)}")
        self.run_as(self.cuts[name])
        for key, linear in self.linears.items():
            A_RI = self._tensors.get(f"level/{name}/{key}.A")
            linear.update = None if A_RI is None else (A_RI, self._tensors[f"level/{name}/{key}.B"])
        self.level = name

    @property
    def model_bytes(self) -> int:
        """Of the base's weights, levels left out."""
        return sum(t.numel() * t.element_size() for name, t in self._tensors.items() if not name.startswith("level/"))
