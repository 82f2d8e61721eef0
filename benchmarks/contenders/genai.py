"""ONNX Runtime GenAI: its own model builder and its own runtime. int4, blocks of 32, integer products."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def build(checkpoint: Path, out: Path, variant: str, data: Path | None) -> None:
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(checkpoint), "-o", str(out)]
    cache = out / "cache"
    options = ["block_size=32", "accuracy_level=4"]
    command += ["-p", variant, "-e", "cpu", "-c", str(cache), "--extra_options", *options]
    subprocess.run(command, check=True)
    if cache.is_dir() and not any(cache.iterdir()):
        cache.rmdir()


def load(built: Path, variant: str, threads: int, *, quality: bool) -> GenAi:
    import onnxruntime_genai

    config = onnxruntime_genai.Config(str(built))
    config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}))
    return GenAi(onnxruntime_genai, onnxruntime_genai.Model(config))


class GenAi:
    def __init__(self, library: Any, model: Any) -> None:
        self._library, self._model = library, model

    def _reading(self, tokens: Sequence[int], new_tokens: int) -> Any:
        settings = self._library.GeneratorParams(self._model)
        length = len(tokens) + new_tokens
        # At least as long as at most: a text does not end before.
        settings.set_search_options(max_length=length, min_length=length, do_sample=False)
        generator = self._library.Generator(self._model, settings)
        generator.append_tokens(np.array(tokens, np.int32))
        return generator

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = np.array(self._reading(tokens, 1).get_output("logits"), np.float32)[0]
        return logits

    def generate(self, tokens: Sequence[int], new_tokens: int) -> Iterator[int]:
        generator = self._reading(tokens, new_tokens)
        for _ in range(new_tokens):
            generator.generate_next_token()
            yield int(generator.get_next_tokens()[0])
