"""Running a package with ExecuTorch's own runtime, as a phone does; here through its Python bindings.

Legend: S positions, V vocabulary.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_targets import _package
from edge_targets._target import PackageError


class ExecutorchRunner:
    """One loaded program; its KV cache is inside it, so one text is read at a time.

    All runners of a process share one thread pool: load them with the same number of threads.
    """

    def __init__(self, folder: Path, threads: int) -> None:
        facts = _package.read(folder)
        self._context_length: int = facts["context_length"]
        self._ends = frozenset(facts["eos_token_ids"])
        with _silent_start():
            import executorch.kernels.quantized  # noqa: F401  quantized embeddings
            from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401  attention over the cache
            from executorch.extension.pybindings.portable_lib import (
                _threadpool_get_thread_count,
                _unsafe_reset_threadpool,
            )
            from executorch.runtime import Runtime, Verification

            # The pool belongs to the process, and a loaded program keeps a pointer to it: it is made before loading.
            if _threadpool_get_thread_count() != threads:
                _unsafe_reset_threadpool(threads)
            try:
                program = Runtime.get().load_program(
                    folder / facts["model_files"][0], verification=Verification.Minimal
                )
                self._method = program.load_method("forward")
                limit = program.load_method("get_max_prefill_len").execute(())
            except Exception as error:  # the runtime raises RuntimeError and plain Exception
                raise PackageError(f"ExecuTorch cannot load {folder}: {error}; pull the package again") from error
        self._most_positions = int(limit[0])

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Next-token logits after every position, [S, V]; raises ValueError when there are more than the context."""
        self._check(len(tokens), 0)
        return np.concatenate(list(self._read(tokens, 0)))

    def generate(self, tokens: Sequence[int], max_new_tokens: int) -> Iterator[int]:
        """Greedy continuation; the end-of-sequence token ends it and is not yielded. Raises ValueError at the call."""
        self._check(len(tokens), max_new_tokens)
        return self._continue(tokens, max_new_tokens)

    def _continue(self, tokens: Sequence[int], max_new_tokens: int) -> Iterator[int]:
        unread, position = list(tokens), 0
        for _ in range(max_new_tokens):
            for logits_SV in self._read(unread, position):
                token = int(logits_SV[-1].argmax())
            if token in self._ends:
                return
            position += len(unread)
            yield token
            unread = [token]

    def _read(self, tokens: Sequence[int], position: int) -> Iterator[NDArray[np.float32]]:
        """Logits of a few positions at a time, written to the cache from `position` on."""
        import torch

        for start in range(0, len(tokens), self._most_positions):
            piece = torch.tensor([tokens[start : start + self._most_positions]])
            logits_1SV = self._method.execute((piece, torch.tensor([position + start])))[0]
            # The program reuses its output memory at the next call.
            yield logits_1SV[0].detach().numpy().copy()

    def _check(self, tokens: int, max_new_tokens: int) -> None:
        if not tokens:
            raise ValueError("got no tokens; a model continues at least 1")
        if tokens + max_new_tokens > self._context_length:
            raise ValueError(
                f"{tokens} tokens and {max_new_tokens} new ones are longer than the package's context of "
                f"{self._context_length}; at most {max(0, self._context_length - tokens)} new ones fit"
            )


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
