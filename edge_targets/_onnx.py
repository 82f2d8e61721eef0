"""An ordinary Hugging Face checkpoint as a package of one ONNX model: what the x86 targets ship."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from components.quiet import quiet_libraries
from edge_targets import _package
from edge_targets._onnx_blocks import Floats
from edge_targets._onnx_decoder import read_decoder
from edge_targets._onnx_graph import Storage, build
from edge_targets._target import Package, PackageError, PackageRequest, Quantization

if TYPE_CHECKING:
    from edge_targets._rounding import Rounded

MODEL_FILE = "model.onnx"
EXTERNAL_DATA_FILE = "model.onnx.data"

_STORAGE = {"int8": Storage(8, 8, block=64), "int4": Storage(4, 8, block=32), "fp32": Storage(32, 32, block=1)}
"""On SmolLM2-135M (perplexity 16.42) int8 in blocks of 64 gives 16.59, in blocks of 32 16.58, with 6 % more bytes."""
_CALIBRATED = ("int4",)
_PERPLEXITY_RATIOS = {"int8": 1.010, "int4": 1.045, "fp32": 1.0}
_TOP_1 = {"int8": 0.942, "int4": 0.815, "fp32": 1.0}
_LARGEST_SINGLE_FILE_BYTES = 1_500_000_000


def _bits_with_scale(bits: int, block: int) -> float:
    return bits if bits == 32 else bits + 32 / block


QUANTIZATIONS = tuple(
    Quantization(
        name,
        linear_bits=_bits_with_scale(storage.linear_bits, storage.block),
        embedding_bits=_bits_with_scale(storage.embedding_bits, storage.block),
        perplexity_ratio=_PERPLEXITY_RATIOS[name],
        top_1=_TOP_1[name],
        calibrated=name in _CALIBRATED,
    )
    for name, storage in _STORAGE.items()
)


def package(request: PackageRequest, out: Path, *, target: str) -> Package:
    """Write `model.onnx` and everything a device needs beside it into the empty folder `out`.

    Weights beyond 1.5 GB go to `model.onnx.data`: a protobuf ends at 2 GB. Raises PackageError for a checkpoint that
    the graph does not express, a context longer than the model's, and a weight that is missing or not finite.
    """
    import onnx

    if request.quantization not in _STORAGE:
        raise PackageError(f"{target} has no quantization {request.quantization!r}; it offers {', '.join(_STORAGE)}")
    decoder, storage = read_decoder(request.checkpoint, request.context_length), _STORAGE[request.quantization]
    with _weights(request.checkpoint) as weights:
        model = build(decoder, storage, weights, _rounded(request, storage))
    model_files = [MODEL_FILE]
    if sum(len(initializer.raw_data) for initializer in model.graph.initializer) > _LARGEST_SINGLE_FILE_BYTES:
        model_files.append(EXTERNAL_DATA_FILE)
        onnx.save_model(model, out / MODEL_FILE, save_as_external_data=True, location=EXTERNAL_DATA_FILE)
    else:
        onnx.save_model(model, out / MODEL_FILE)
    return _package.complete(
        request, out, target=target, runtime="onnxruntime", runner="onnxruntime_runner", model_files=model_files
    )


def _rounded(request: PackageRequest, storage: Storage) -> Mapping[str, Rounded]:
    """What calibration makes of the layers' weights; nothing for a quantization that rounds to nearest."""
    if request.quantization not in _CALIBRATED:
        return {}
    quiet_libraries()
    from edge_targets._rounding import calibrated

    return calibrated(request, storage.linear_bits, storage.block)


@contextmanager
def _weights(checkpoint: Path) -> Iterator[Callable[[str], Floats | None]]:
    """A reader of the checkpoint's weights by name, in float32 whatever they are stored in; None where it has none."""
    import ml_dtypes  # noqa: F401  importing it teaches numpy bfloat16
    from safetensors import safe_open

    files = sorted(checkpoint.glob("*.safetensors"))
    if not files:
        raise PackageError(f"{checkpoint} holds no .safetensors file; save the model with save_pretrained")
    with ExitStack() as stack:
        holders = {}
        for file in files:
            opened = stack.enter_context(safe_open(file, framework="np"))
            holders.update(dict.fromkeys(opened.keys(), opened))

        def read(name: str) -> Floats | None:
            return np.asarray(holders[name].get_tensor(name), np.float32) if name in holders else None

        yield read
