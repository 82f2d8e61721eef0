"""Running a package with ExecuTorch's own runtime, as a phone does; here through its Python bindings.

A program holds one cache. What is at and after the position of a call is written anew and what is before it is read, so
a text goes back by its position alone; one that another text interrupted reads its own again before it goes on.

Legend: S positions, V vocabulary.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import facts
from .facts import PackageError
from .greedy import GreedyRunner


class ExecutorchRunner(GreedyRunner):
    """A loaded package; see `runner.Runner`.

    All runners of a process share ExecuTorch's one thread pool: load them with the same number of threads.
    """

    def __init__(self, folder: Path, threads: int) -> None:
        if threads < 1:
            raise ValueError(f"a model runs on at least 1 thread, got {threads}")
        known = facts.read(folder)
        super().__init__(known, f"ExecuTorch {version('executorch')}", lambda: _Passage(self))
        with _silent_start():
            runtime = _runtime()
            # The pool belongs to the process, and a loaded program keeps a pointer to it: it is made before loading.
            if runtime._threadpool_get_thread_count() != threads:
                runtime._unsafe_reset_threadpool(threads)
            try:
                program = runtime._load_program(str(folder / known["model_files"][0]))
                self._method = program.load_method("forward")
                limit = program.load_method("get_max_seq_len")(())
            except Exception as error:  # the runtime raises RuntimeError and plain Exception
                raise PackageError(f"ExecuTorch cannot load {folder}: {error}; pull the package again") from error
        self._most_positions = int(limit[0])
        self._in_cache: object = None

    def read(self, passage: _Passage, tokens: Sequence[int], logits_from: int) -> NDArray[np.float32]:
        """Append to a passage; see `runner.Passage`. The cache is first made the passage's, where it is another's."""
        known = len(passage.tokens) if self._in_cache is passage else 0
        self._in_cache = passage
        again = passage.tokens[known:]
        logits_SV = self._logits([*again, *tokens], known, len(again) + logits_from)
        passage.tokens += tokens
        return logits_SV

    def _logits(self, tokens: Sequence[int], position: int, logits_from: int) -> NDArray[np.float32]:
        """As many tokens at a time as a call takes, written to the cache from `position` on."""
        import torch

        pieces = []
        for start in range(0, len(tokens), self._most_positions):
            piece_1S = torch.tensor([tokens[start : start + self._most_positions]])
            logits_1SV = self._method((piece_1S, torch.tensor([position + start])))[0]
            # The program's output memory is its own, and the next call may write it again: what is wanted is copied.
            pieces.append(logits_1SV[0, max(0, logits_from - start) :].detach().numpy().copy())
        return np.concatenate(pieces)


class _Passage:
    """One text; see `runner.Passage`. Its tokens are kept for when another text has taken the cache."""

    def __init__(self, runner: ExecutorchRunner) -> None:
        self._runner = runner
        self.tokens: list[int] = []

    def run(self, tokens: Sequence[int], logits_from: int) -> NDArray[np.float32]:
        return self._runner.read(self, tokens, logits_from)

    def rewind(self, length: int) -> None:
        del self.tokens[length:]


def load(folder: Path, threads: int) -> ExecutorchRunner:
    """Open a package; raises PackageError when it is not one that this runtime loads."""
    return ExecutorchRunner(folder, threads)


def _runtime() -> Any:
    """ExecuTorch's bindings with the kernels that packages need.

    `executorch.runtime` and the kernels' own modules import an exporter and a compiler first, which takes five seconds.
    """
    import executorch.kernels.quantized  # noqa: F401  quantized embeddings
    import torch
    from executorch.extension.pybindings import _C

    place = find_spec("executorch.extension.llm.custom_ops")
    folders = [] if place is None else [Path(folder) for folder in place.submodule_search_locations or ()]
    libraries = [library for folder in folders for library in folder.glob("*custom_ops_aot_lib.*")]
    if len(libraries) != 1:
        raise PackageError(f"ExecuTorch here has {len(libraries)} libraries of attention over a cache; install it anew")
    torch.ops.load_library(libraries[0])
    return _C


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
