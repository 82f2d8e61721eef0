"""transformers as it comes: eager torch, with its own cache. Environment: ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from components.quiet import quiet_libraries
from components.reference import load_checkpoint, logits_of

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def build(checkpoint: Path, out: Path, variant: str, data: Path | None) -> None:
    """Nothing is built: the checkpoint is what is loaded."""
    for file in checkpoint.resolve().iterdir():
        (out / file.name).symlink_to(file)


def load(built: Path, variant: str, threads: int, *, quality: bool) -> Eager:
    quiet_libraries()
    torch.set_num_threads(threads)
    return Eager(load_checkpoint(built).to(_DTYPES[variant]))  # type: ignore[arg-type]


class Eager:
    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        return logits_of(self._model)(tokens)

    @torch.no_grad()
    def generate(self, tokens: Sequence[int], new_tokens: int) -> Iterator[int]:
        wanted, past = [list(tokens)], None
        for _ in range(new_tokens):
            answer = self._model(input_ids=torch.tensor(wanted), past_key_values=past, use_cache=True, logits_to_keep=1)
            token, past = int(answer.logits[0, -1].argmax()), answer.past_key_values
            yield token
            wanted = [[token]]
