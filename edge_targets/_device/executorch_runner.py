"""Running a package with ExecuTorch's own runtime, as a phone does; here through its Python bindings.

A program holds one cache. What is at and after the position of a call is written anew and what is before it is read, so
a text starts over at position 0; a generation that another text interrupted reads its own again before it goes on.

Legend: S positions, V vocabulary.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from . import facts
from .facts import PackageError
from .limits import Limits


class ExecutorchRunner:
    """A loaded package; see `runner.Runner`.

    All runners of a process share ExecuTorch's one thread pool: load them with the same number of threads.
    """

    def __init__(self, folder: Path, threads: int) -> None:
        if threads < 1:
            raise ValueError(f"a model runs on at least 1 thread, got {threads}")
        known = facts.read(folder)
        self._limits = Limits.of(known)
        self._ends = frozenset(known["eos_token_ids"])
        with _silent_start():
            import executorch.kernels.quantized  # noqa: F401  quantized embeddings
            from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401  attention over the cache
            from executorch.extension.pybindings.portable_lib import (
                _threadpool_get_thread_count,
                _unsafe_reset_threadpool,
            )
            from executorch.runtime import Runtime

            # The pool belongs to the process, and a loaded program keeps a pointer to it: it is made before loading.
            if _threadpool_get_thread_count() != threads:
                _unsafe_reset_threadpool(threads)
            try:
                program = Runtime.get().load_program(folder / known["model_files"][0])
                self._method = program.load_method("forward")
                limit = program.load_method("get_max_seq_len").execute(())
            except Exception as error:  # the runtime raises RuntimeError and plain Exception
                raise PackageError(f"ExecuTorch cannot load {folder}: {error}; pull the package again") from error
        self._most_positions = int(limit[0])
        self._cached_text: object = None

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Next-token logits after every position, [S, V]; raises ValueError for tokens it cannot take."""
        self._limits.check(tokens, max_new_tokens=0)
        self._cached_text = None
        # The program's output memory is its own: the next call may write it again.
        return np.concatenate([logits_SV.copy() for logits_SV in self._read(tokens, 0)])

    def generate(self, tokens: Sequence[int], max_new_tokens: int, *, to_the_end: bool = False) -> Iterator[int]:
        """Greedy continuation; the end-of-sequence token ends it and is not yielded. Raises ValueError at the call."""
        self._limits.check(tokens, max_new_tokens)
        return self._continue(list(tokens), max_new_tokens, frozenset() if to_the_end else self._ends)

    def _continue(self, text: list[int], max_new_tokens: int, ends: frozenset[int]) -> Iterator[int]:
        read = 0
        for _ in range(max_new_tokens):
            if self._cached_text is not text:
                self._cached_text, read = text, 0
            for logits_SV in self._read(text[read:], read):
                token = int(logits_SV[-1].argmax())
            if token in ends:
                return
            read = len(text)
            text.append(token)
            yield token

    def _read(self, tokens: Sequence[int], position: int) -> Iterator[NDArray[np.float32]]:
        """Logits of as many positions at a time as a call takes, written to the cache from `position` on."""
        import torch

        for start in range(0, len(tokens), self._most_positions):
            piece_1S = torch.tensor([tokens[start : start + self._most_positions]])
            logits_1SV = self._method.execute((piece_1S, torch.tensor([position + start])))[0]
            yield logits_1SV[0].detach().numpy()


def load(folder: Path, threads: int) -> ExecutorchRunner:
    """Open a package; raises PackageError when it is not one that this runtime loads."""
    return ExecutorchRunner(folder, threads)


@contextlib.contextmanager
def _silent_start() -> Iterator[None]:
    """The native library describes the processor on standard error when it loads; that says nothing to a user."""
    import sys

    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
