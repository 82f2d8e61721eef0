"""What a user would take instead, and ours: each a module with `build` and `load`, run by its own environment's Python.

A contender's module is imported only in its own process, where `components.evaluate` and `edge_targets._device` (numpy and the
standard library) are all that it may take of ours, unless its environment is ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Loaded(Protocol):
    """A model in its runtime's memory, with an empty cache at the start of every call."""

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Next-token logits after every position, [tokens, vocabulary]."""
        ...

    def generate(self, tokens: Sequence[int], new_tokens: int) -> Iterator[int]:
        """Greedy continuation of exactly `new_tokens` tokens, whatever ends a text."""
        ...


class Module(Protocol):
    """What a contender's module offers."""

    def build(self, checkpoint: Path, out: Path, variant: str) -> None:
        """From a Hugging Face folder to whatever the runtime loads, in the empty folder `out`."""
        ...

    def load(self, built: Path, variant: str, threads: int, *, quality: bool) -> Loaded:
        """`quality` tells that logits of every position are wanted; without it only `generate` is called."""
        ...


@dataclass(frozen=True)
class Contender:
    """One row of the comparison."""

    module: str
    variant: str
    environment: str | None = None
    """A file of `benchmarks/requirements`; None is the environment that this project runs in."""
    title: str = ""

    @property
    def name(self) -> str:
        return f"{self.module}-{self.variant}"


OTHERS = (
    Contender("torch_eager", "fp32", title="torch eager, float32"),
    Contender("torch_eager", "bf16", title="torch eager, bfloat16"),
    Contender("llamacpp", "q8_0", "llama_cpp", "llama.cpp Q8_0"),
    Contender("llamacpp", "q4_0", "llama_cpp", "llama.cpp Q4_0"),
    Contender("genai", "int4", "onnxruntime_genai", "ONNX Runtime GenAI's builder, int4"),
    Contender("openvino_own", "int4", "openvino", "OpenVINO int4"),
    Contender("executorch_own", "8da4w", title="ExecuTorch's own export, 8da4w"),
)
