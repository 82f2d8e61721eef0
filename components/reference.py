"""A torch model as something that answers logits: the float reference that exported files are compared with."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, PreTrainedModel

from components.evaluate import Logits


def logits_of(model: PreTrainedModel) -> Logits:
    """Next-token logits after every position, float32 [S, V]."""

    @torch.no_grad()
    def logits(tokens: Sequence[int]) -> NDArray[np.float32]:
        values_SV = model(input_ids=torch.tensor([list(tokens)], device=model.device), use_cache=False).logits[0]
        result: NDArray[np.float32] = values_SV.float().cpu().numpy()
        return result

    return logits


def load_checkpoint(folder: Path) -> PreTrainedModel:
    """A Hugging Face folder in float32: an ordinary one as transformers loads it, a mixed one by its own class."""
    importlib.import_module("components.mixed")  # teaches transformers the class
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    model.eval()
    return model
