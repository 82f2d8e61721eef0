"""An ordinary Hugging Face checkpoint as a package of one ONNX model: what the x86 targets ship."""

from __future__ import annotations

from pathlib import Path

from edge_targets import _package
from edge_targets._onnx_decoder import read_decoder
from edge_targets._onnx_files import rounded_weights, weights_of, write_model
from edge_targets._onnx_graph import Storage, build
from edge_targets._target import Grid, Package, PackageError, PackageRequest, Quantization

STORAGE = {"int8": Storage(8, 8, block=64), "int4": Storage(4, 8, block=32), "fp32": Storage(32, 32, block=1)}
"""On SmolLM2-135M (perplexity 16.42) int8 in blocks of 64 gives 16.59, in blocks of 32 16.58, with 6 % more bytes."""
_GRIDS = {"int4": Grid(4, 32)}
_PERPLEXITY_RATIOS = {"int8": 1.010, "int4": 1.032, "fp32": 1.0}
_TOP_1 = {"int8": 0.942, "int4": 0.818, "fp32": 1.0}


def _bits_with_scale(bits: int, block: int) -> float:
    return bits if bits == 32 else bits + 32 / block


QUANTIZATIONS = tuple(
    Quantization(
        name,
        linear_bits=_bits_with_scale(storage.linear_bits, storage.block),
        embedding_bits=_bits_with_scale(storage.embedding_bits, storage.block),
        perplexity_ratio=_PERPLEXITY_RATIOS[name],
        top_1=_TOP_1[name],
        grid=_GRIDS.get(name),
    )
    for name, storage in STORAGE.items()
)


def package(request: PackageRequest, out: Path, *, target: str) -> Package:
    """Write `model.onnx` and everything a device needs beside it into the empty folder `out`.

    Raises PackageError for a checkpoint that the graph does not express, a context longer than the model's, a weight that
    is missing or not finite, and a calibrated quantization without text.
    """
    if request.quantization not in STORAGE:
        raise PackageError(f"{target} has no quantization {request.quantization!r}; it offers {', '.join(STORAGE)}")
    decoder, storage = read_decoder(request.checkpoint, request.context_length), STORAGE[request.quantization]
    rounded = rounded_weights(request, _GRIDS.get(request.quantization))
    with weights_of(request.checkpoint) as weights:
        model = build(decoder, storage, weights, rounded)
    model_files = write_model(model, out)
    return _package.complete(
        request, out, target=target, runtime="onnxruntime", runner="onnxruntime_runner", model_files=model_files
    )
