"""A checkpoint as a package for TensorRT: one ONNX file of standard operators, and what builds an engine on the device.

An engine is tied to the GPU and to TensorRT's version, so none is built here. What is checked here: every operator and
type is one that TensorRT's parser lists, and ONNX Runtime answers from the same file.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge_targets import _package
from edge_targets._device.greedy import PREFILL_TOKENS
from edge_targets._device.tensorrt_engine import PLAN_FILE, Plan
from edge_targets._onnx_decoder import read_decoder
from edge_targets._onnx_files import rounded_weights, weights_of, write_model
from edge_targets._target import Grid, Package, PackageError, PackageRequest, Quantization
from edge_targets._tensorrt_graph import Storage, build
from edge_targets._tensorrt_operators import unsupported

SCRIPT = "build_engine.sh"
CACHED_VALUE_BYTES = 2
_STORAGE = {"fp16": Storage(16, 1, 18, 8), "int4": Storage(4, 64, 21, 10)}
"""Blocks of 64, not 128: hidden sizes such as 576 are no multiple of 128. Weights of 8 bits with float activations are not
offered: TensorRT's guide lists weight-only quantization for 4 bits and no other integers."""
_GRIDS = {"int4": Grid(4, 64, positive=True, scales="float16")}
QUANTIZATIONS = (
    Quantization("fp16", linear_bits=16, embedding_bits=16, perplexity_ratio=1.0, top_1=0.998),
    Quantization(
        "int4", linear_bits=4 + 16 / 64, embedding_bits=16, perplexity_ratio=1.113, top_1=0.785, grid=_GRIDS["int4"]
    ),
)
"""Measured on ONNX Runtime (perplexity 21.42 in float32)."""
_SHOWN = 3
"""Refused operators that a message names."""


@dataclass(frozen=True)
class Versions:
    """Which TensorRT a target's JetPack has: from the first on, below the second."""

    start: str
    below: str = "11"


def package(request: PackageRequest, out: Path, *, target: str, tensorrt: Versions) -> Package:
    """Write the ONNX file, the engine's plan and the script that builds it into the empty folder `out`.

    Raises PackageError for a checkpoint that the graph does not express, a weight that is missing, not finite or beyond
    float16, a width that the quantization cannot take, and an operator or type that TensorRT's parser does not list.
    """
    if request.quantization not in _STORAGE:
        raise PackageError(f"{target} has no quantization {request.quantization!r}; it offers {', '.join(_STORAGE)}")
    decoder = read_decoder(request.checkpoint, request.context_length)
    storage = _STORAGE[request.quantization]
    rounded = rounded_weights(request, _GRIDS.get(request.quantization))
    with weights_of(request.checkpoint) as weights:
        model = build(decoder, storage, weights, rounded)
    check_operators(model)
    model_files = write_model(model, out)
    plan = Plan(tensorrt.start, tensorrt.below, min(PREFILL_TOKENS, request.context_length), request.context_length)
    (out / PLAN_FILE).write_text(json.dumps(asdict(plan), indent=2, sort_keys=True) + "\n")
    shutil.copyfile(Path(__file__).parent / "_device" / SCRIPT, out / SCRIPT)
    return _package.complete(
        request,
        out,
        target=target,
        runtime="onnxruntime",
        runner="tensorrt_runner",
        model_files=model_files,
        cached_value_bytes=CACHED_VALUE_BYTES,
    )


def check_operators(model: Any) -> None:
    """Raise PackageError for what TensorRT's parser does not list."""
    refused = list(unsupported(model))
    if refused:
        more = f" and {len(refused) - _SHOWN} more" if len(refused) > _SHOWN else ""
        raise PackageError(f"TensorRT's parser does not take the graph: {'; '.join(refused[:_SHOWN])}{more}")
