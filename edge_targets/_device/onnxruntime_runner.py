"""Running a package with plain ONNX Runtime: numpy and onnxruntime are all a device needs.

Keys and values live in one buffer a layer that is bound as the past and the present at once, so a token writes its own
row and copies nothing: 145 tokens a second against 97 when the cache is passed through. A call gets buffers of its own
(pages nobody writes are never real), so two generations may run in turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import facts
from .facts import PackageError
from .greedy import GreedyRunner


def load(folder: Path, threads: int) -> OnnxRunner:
    """Open a package with `threads` threads; raises PackageError for a folder that is none or does not load."""
    return OnnxRunner(folder, threads)


class OnnxRunner(GreedyRunner):
    """A loaded package; see `runner.Runner`."""

    def __init__(self, folder: Path, threads: int) -> None:
        import onnxruntime

        if threads < 1:
            raise ValueError(f"a model runs on at least 1 thread, got {threads}")
        known = facts.read(folder)
        onnxruntime.disable_telemetry_events()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        model = folder / known["model_files"][0]
        try:
            session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors share no base class of their own
            raise PackageError(f"onnxruntime {onnxruntime.__version__} cannot load {model}: {error}") from error
        super().__init__(known, f"ONNX Runtime {onnxruntime.__version__}", lambda: _Passage(session))


class _Passage:
    """One text on its way through the model: its cache, and how many tokens are in it; see `runner.Passage`."""

    def __init__(self, session: Any) -> None:
        from onnxruntime import OrtValue

        self._session = session
        self._binding = session.io_binding()
        self._length = 0
        for past in session.get_inputs():
            if past.name.startswith("past_key_values."):
                cache = OrtValue.ortvalue_from_numpy(np.zeros(past.shape, np.float32))
                self._binding.bind_ortvalue_input(past.name, cache)
                self._binding.bind_ortvalue_output(past.name.replace("past_key_values.", "present."), cache)

    def run(self, tokens: Sequence[int], logits_from: int) -> NDArray[np.float32]:
        self._length += len(tokens)
        binding = self._binding
        binding.bind_cpu_input("input_ids", np.array([tokens], np.int64))
        binding.bind_cpu_input("seqlens_k", np.array([self._length - 1], np.int32))
        binding.bind_cpu_input("total_sequence_length", np.array(self._length, np.int32))
        binding.bind_cpu_input("logits_from", np.array([logits_from], np.int64))
        binding.bind_output("logits", "cpu")
        self._session.run_with_iobinding(binding)
        logits: NDArray[np.float32] = binding.get_outputs()[-1].numpy()[0]  # bound after the caches
        return logits

    def rewind(self, length: int) -> None:
        self._length = length
