"""An ordinary Hugging Face checkpoint as a package of one ExecuTorch program: what the phone targets ship.

The program's caches are its own, written by ExecuTorch's operator for it; the rest goes to one backend, quantized as that
backend multiplies. A backend is a module `_executorch_<name>` with a `Decoder`, `quantize` and `lower`. The program answers
to the names that ExecuTorch's text runner asks for, so a phone app runs it with no code of ours.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from components.checkpoint import layers_of
from components.quiet import quiet_libraries
from edge_targets import _half, _package
from edge_targets._target import Grid, Package, PackageError, PackageRequest, Quantization

if TYPE_CHECKING:
    from edge_targets._executorch_weights import Codes

MODEL_FILE = "model.pte"
GROUP_SIZE = 32
QUANTIZATIONS = (
    Quantization("8da8w", linear_bits=8.1, embedding_bits=9.0, perplexity_ratio=1.022, top_1=0.916),
    Quantization(
        "8da4w",
        linear_bits=4.5,
        embedding_bits=9.0,
        perplexity_ratio=1.088,
        top_1=0.775,
        grid=Grid(4, GROUP_SIZE, positive=True, scales="bfloat16"),
    ),
)
"""XNNPACK's: the scales of 4-bit groups take 16 bits; the head is of 8 bits in both."""
VULKAN = (
    Quantization("8w", linear_bits=8.1, embedding_bits=9.0, perplexity_ratio=1.003, top_1=0.958),
    Quantization(
        "8da4w",
        linear_bits=5.0,
        embedding_bits=9.0,
        perplexity_ratio=1.071,
        top_1=0.8,
        grid=Grid(4, GROUP_SIZE, positive=True),
    ),
)
"""Scales of 4-bit groups take 32 bits. Quality, here and for Core ML, is torch's with the same codes and
scales (`benchmarks/phone_weights.py`)."""
COREML = (
    Quantization("8w", linear_bits=8.1, embedding_bits=8.1, perplexity_ratio=1.006, top_1=0.958),
    Quantization(
        "4w",
        linear_bits=4.5,
        embedding_bits=8.1,
        perplexity_ratio=1.06,
        top_1=0.81,
        grid=Grid(4, GROUP_SIZE, positive=True, scales="float16"),
    ),
)
"""Embedding and head of a tied model are one constant."""
Backend = Literal["xnnpack", "vulkan", "coreml"]
OFFERED: dict[Backend, tuple[Quantization, ...]] = {"xnnpack": QUANTIZATIONS, "vulkan": VULKAN, "coreml": COREML}
_VARIES = "coremltools writes new identifiers, the date and fields in any order into every build; weights are the same"
_SHORTEST_CONTEXT = 4
"""A program is traced with three tokens, and takes one less than its context at a call."""
_LOOKED_AT = 4
"""Windows of text that are read in float before a model goes where float16 is all there is."""
_log = logging.getLogger("amoeba.package")


def package(request: PackageRequest, out: Path, *, target: str, backend: Backend = "xnnpack") -> Package:
    """Write `model.pte` and everything a device needs beside it into the empty folder `out`.

    Raises PackageError for a checkpoint of another family, for a weight that is not finite, for widths that the quantization
    does not divide, for Core ML where text makes values that float16 does not hold, and when anything that should have been
    quantized or lowered was not.
    """
    config = _checked_config(request, backend)
    import torch

    with _quiet(), torch.no_grad():
        from components.reference import load_checkpoint
        from edge_targets._executorch_program import export

        lowering: Any = importlib.import_module(f"edge_targets._executorch_{backend}")
        with _said("loading"):
            model = load_checkpoint(request.checkpoint)
            if backend == "coreml" and request.calibration_WT is not None:
                _half.check(model, request.calibration_WT[:_LOOKED_AT])
            decoder = lowering.Decoder(model, request.context_length)
        with _said("quantizing"):
            lowering.quantize(decoder, request.quantization, GROUP_SIZE, calibrated_codes(request, backend))
        with _said("exporting"):
            exported, most_positions = export(decoder)
        with _said("lowering"):
            program = lowering.lower(exported, _metadata(request, config, most_positions))
        with _said("writing"), (out / MODEL_FILE).open("wb") as file:
            program.write_to_file(file)
    return _package.complete(
        request,
        out,
        target=target,
        runtime="executorch",
        runner="executorch_runner",
        model_files=[MODEL_FILE],
        varies={MODEL_FILE: _VARIES} if backend == "coreml" else None,
        cached_value_bytes=lowering.Decoder.layer_type.cache_dtype.itemsize,
    )


def calibrated_codes(request: PackageRequest, backend: Backend) -> dict[str, Codes]:
    """The codes of a quantization that is calibrated, by the layer's name in the checkpoint; none for the others."""
    (grid,) = (known.grid for known in OFFERED[backend] if known.name == request.quantization)
    if grid is None:
        return {}
    from torch import from_numpy

    from edge_targets._executorch_weights import Codes
    from edge_targets._rounding import calibrated

    rounded = calibrated(request, grid)
    return {name: Codes(from_numpy(one.codes_NK), from_numpy(one.scales_NB)) for name, one in rounded.items()}


def _checked_config(request: PackageRequest, backend: Backend) -> dict[str, Any]:
    if request.context_length < _SHORTEST_CONTEXT:
        raise PackageError(
            f"a context of {request.context_length} tokens was asked for; ExecuTorch's exporter takes {_SHORTEST_CONTEXT} "
            "and more"
        )
    config = _package.checked_model(request.checkpoint, request.context_length)
    if request.quantization not in {quantization.name for quantization in OFFERED[backend]}:
        offered = ", ".join(quantization.name for quantization in OFFERED[backend])
        raise PackageError(f"no quantization is called {request.quantization!r}; offered are {offered}")
    for name, width in _grouped_widths(config, request.quantization):
        if width % GROUP_SIZE:
            nearest = max(1, round(width / GROUP_SIZE)) * GROUP_SIZE
            raise PackageError(
                f"{name} is {width}, which groups of {GROUP_SIZE} weights do not divide; the nearest width is {nearest}"
            )
    return config


def _grouped_widths(config: dict[str, Any], quantization: str) -> list[tuple[str, int]]:
    """Widths of the rows that are stored in groups: the embedding's, and with 4 bits those of the layers."""
    embedding = ("hidden_size", config["hidden_size"])
    if "8w" in quantization:
        return [embedding]
    heads = config["num_attention_heads"]
    attention = heads * (config.get("head_dim") or config["hidden_size"] // heads)
    widths = sorted({neurons for _, neurons in layers_of(config)})
    feed_forward = [("intermediate_size", width) for width in widths]
    return [embedding, *feed_forward, ("num_attention_heads * head_dim", attention)]


def _metadata(request: PackageRequest, config: dict[str, Any], most_positions: int) -> dict[str, Any]:
    """Constant methods, under the names that ExecuTorch's text runner reads.

    It reads a prompt in pieces of `get_max_seq_len`, and stops writing at `get_max_context_len`.
    """
    generation = json.loads((request.checkpoint / "generation_config.json").read_text())
    bos = generation.get("bos_token_id")
    return {
        "get_max_seq_len": most_positions,
        "get_max_context_len": request.context_length,
        "get_vocab_size": config["vocab_size"],
        "get_n_layers": sum(attends for attends, _ in layers_of(config)),
        "get_eos_ids": _package.eos_token_ids(request.checkpoint, config),
        **({"get_bos_id": bos} if isinstance(bos, int) else {}),
        "use_kv_cache": True,
        "use_sdpa_with_kv_cache": True,
        "enable_dynamic_shape": True,
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters warn about their own internals at every layer; what fails raises, and is not silenced."""
    quiet_libraries()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _said(what: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    _log.info("packaging: %s took %.0f s", what, time.monotonic() - started)
