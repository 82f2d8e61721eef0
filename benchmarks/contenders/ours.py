"""A package of ours, run by the code that it holds. Environment: ours; a variant is `<target>-<quantization>`."""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONTEXT_LENGTH = 2048
CALIBRATION_WINDOWS = 32


def build(checkpoint: Path, out: Path, variant: str, data: Path | None) -> None:
    import edge_targets
    from components.data import Data
    from components.shape import parse_shape
    from edge_targets._target import PackageRequest

    target, _, quantization = variant.rpartition("-")
    config = json.loads((checkpoint / "config.json").read_text())
    # What a package calls its shape decides none of its bytes but this name.
    shape = parse_shape(f"d{config['num_hidden_layers']}w100")
    context = min(CONTEXT_LENGTH, config["max_position_embeddings"])
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder)
        for file in checkpoint.resolve().iterdir():
            (whole / file.name).symlink_to(file)
        if not (whole / "README.md").exists():  # a base is no subnet: it has no card of ours
            (whole / "README.md").write_text("# A base, packaged for a benchmark\n")
        text_WT = None if data is None else Data.load(data).spread(CALIBRATION_WINDOWS)
        edge_targets.load(target).package(PackageRequest(whole, shape, quantization, context, text_WT), out)


def load(built: Path, variant: str, threads: int, *, quality: bool) -> Packaged:
    sys.path.insert(0, str(built))
    return Packaged(importlib.import_module("device.facts").load(built, threads))


class Packaged:
    def __init__(self, runner: Any) -> None:
        self._runner = runner

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = self._runner.logits(tokens)
        return logits

    def generate(self, tokens: Sequence[int], new_tokens: int) -> Iterator[int]:
        yield from self._runner.generate(tokens, new_tokens, to_the_end=True)
