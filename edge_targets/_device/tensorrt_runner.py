"""Running a package with TensorRT where it is installed, and with ONNX Runtime where it is not: the same ONNX file.

Which of the two it is, and why, is said on standard error once. ONNX Runtime uses the GPU where its build can, else the
processor.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import facts
from .facts import PackageError
from .greedy import GreedyRunner
from .runner import Passage
from .tensorrt_engine import Engine, EngineError, installed_version

_PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")


def load(folder: Path, threads: int) -> TensorRtRunner:
    """Open a package; raises PackageError for a folder that is none or that neither runtime loads."""
    return TensorRtRunner(folder, threads)


class TensorRtRunner(GreedyRunner):
    """A loaded package; see `runner.Runner`."""

    def __init__(self, folder: Path, threads: int) -> None:
        if threads < 1:
            raise ValueError(f"a model runs on at least 1 thread, got {threads}")
        known = facts.read(folder)
        passage: Callable[[], Passage]
        self._engine: Engine | None = None
        try:
            self._engine = Engine(folder)
        except EngineError as error:
            try:
                session = _session(folder / known["model_files"][0], threads)
            except PackageError as second:
                raise PackageError(f"not on TensorRT: {error}; not on ONNX Runtime: {second}") from second
            import onnxruntime  # whose distribution is onnxruntime-gpu on a Jetson, so metadata would not find it

            runs_on = f"ONNX Runtime {onnxruntime.__version__} ({session.get_providers()[0]})"
            sys.stderr.write(f"running on {runs_on}, not on TensorRT: {error}\n")
            context_length = known["context_length"]
            passage = lambda: _Passage(session, context_length)  # noqa: E731
        else:
            runs_on = f"TensorRT {installed_version()}"
            passage = self._engine.passage
        super().__init__(known, runs_on, passage)

    @property
    def gpu_memory_mb(self) -> float:
        """The GPU's memory at its most, see `Engine.gpu_memory_mb`: a Jetson counts none of it as this process's.

        0 on ONNX Runtime, which does not say what it takes where it uses the GPU.
        """
        return self._engine.gpu_memory_mb if self._engine else 0.0


def _session(model: Path, threads: int) -> Any:
    try:
        import onnxruntime
    except ImportError as error:  # JetPack has none
        raise PackageError(f"its runtime is missing ({error}); package.json names its version") from error
    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # 4-bit products with activations rounded to 8 bits would be faster here, but not what the engine computes.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    providers = [name for name in _PROVIDERS if name in onnxruntime.get_available_providers()]
    try:
        return onnxruntime.InferenceSession(model, options, providers=providers)
    except Exception as error:  # onnxruntime's errors share no base class of their own
        raise PackageError(f"onnxruntime {onnxruntime.__version__} cannot load {model}: {error}") from error


class _Passage:
    """One text on its way through ONNX Runtime; see `runner.Passage`.

    Keys and values stand row after row in one array a layer, of which a run reads those that are there.
    """

    def __init__(self, session: Any, context_length: int) -> None:
        self._session = session
        self._length = 0
        self._outputs = [output.name for output in session.get_outputs()]
        self._cache = {
            given.name: np.zeros((1, context_length, *given.shape[2:]), np.float16)
            for given in session.get_inputs()
            if given.name.startswith("past_key_values.")
        }

    def run(self, tokens: Sequence[int], logits_from: int) -> NDArray[np.float32]:
        past, end = self._length, self._length + len(tokens)
        given = {
            "input_ids": np.array([tokens], np.int64),
            "positions": np.arange(past, end, dtype=np.int64),
            "logits_at": np.arange(logits_from, len(tokens), dtype=np.int64),
            **{name: cache[:, :past] for name, cache in self._cache.items()},
        }
        made = dict(zip(self._outputs, self._session.run(None, given), strict=True))
        for name, cache in self._cache.items():
            cache[:, past:end] = made[name.replace("past_key_values.", "present.")]
        self._length = end
        logits: NDArray[np.float32] = made["logits"]
        return logits

    def rewind(self, length: int) -> None:
        self._length = length
