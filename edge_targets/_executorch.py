"""An ordinary Hugging Face checkpoint as a package of one ExecuTorch program: what the phone targets ship.

The program's attention calls ExecuTorch's own operators, which write keys and values into caches that belong to the
program; its linear layers go to XNNPACK, weights in 4 or 8 bits and activations in 8, quantized as they come. The program
answers to the names that ExecuTorch's text runner asks for, so a phone app runs it with no code of ours.

Legend: S positions of a call, C positions of the cache, H hidden size, N query heads, K key-value heads, D head size.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.quiet import quiet_libraries
from edge_targets import _package
from edge_targets._target import Package, PackageError, PackageRequest, Quantization

if TYPE_CHECKING:
    import torch

MODEL_FILE = "model.pte"
ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
GROUP_SIZE = 32
QUANTIZATIONS = (
    Quantization("8da8w", linear_bits=8.1, embedding_bits=9.0, perplexity_ratio=1.022),
    Quantization("8da4w", linear_bits=5.0, embedding_bits=9.0, perplexity_ratio=1.3),
)
_log = logging.getLogger("amoeba.package")


def package(request: PackageRequest, out: Path, *, target: str) -> Package:
    """Write `model.pte` and everything a device needs beside it into the empty folder `out`.

    Raises PackageError for a checkpoint of another family, for widths that the quantization does not divide, and when
    anything that should have been quantized or lowered was not.
    """
    config = _checked_config(request)
    import torch

    from edge_targets._executorch_program import lower, quantize

    _quiet()
    with _said("loading"):
        decoder = _decoder(request.checkpoint, config, request.context_length)
    with _said("quantizing"), torch.no_grad():
        quantize(decoder, request.quantization, GROUP_SIZE)
    with _said("exporting and lowering"), torch.no_grad():
        program = lower(decoder, _metadata(request, config))
    with _said("writing"), (out / MODEL_FILE).open("wb") as file:
        program.write_to_file(file)
    return _package.complete(request, out, target=target, runtime="executorch", model_files=[MODEL_FILE])


def _checked_config(request: PackageRequest) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((request.checkpoint / "config.json").read_text())
    given = (config.get("architectures") or ["none named"])[0]
    if given not in ARCHITECTURES:
        raise PackageError(f"ExecuTorch packages are made of {', '.join(ARCHITECTURES)}; the checkpoint is a {given}")
    if request.quantization not in {quantization.name for quantization in QUANTIZATIONS}:
        offered = ", ".join(quantization.name for quantization in QUANTIZATIONS)
        raise PackageError(f"no quantization is called {request.quantization!r}; offered are {offered}")
    for name in ("hidden_size", "intermediate_size"):
        if config[name] % GROUP_SIZE:
            raise PackageError(
                f"{name} is {config[name]}, which groups of {GROUP_SIZE} weights do not divide; "
                f"the nearest width is {round(config[name] / GROUP_SIZE) * GROUP_SIZE}"
            )
    if request.context_length > config["max_position_embeddings"]:
        raise PackageError(
            f"a context of {request.context_length} is longer than the model's {config['max_position_embeddings']}"
        )
    rope = (config.get("rope_parameters") or {}).get("rope_type", "default")
    if rope != "default" or config.get("sliding_window"):
        raise PackageError("scaled rotary positions and sliding windows are not expressed yet; use a base without them")
    return config


def _decoder(checkpoint: Path, config: dict[str, Any], context_length: int) -> torch.nn.Module:
    from components.reference import load_checkpoint
    from edge_targets._executorch_program import Decoder

    model = load_checkpoint(checkpoint)
    # A padding index keeps the embedding from being quantized.
    model.get_input_embeddings().padding_idx = None  # type: ignore[assignment]
    return Decoder(model, context_length)


def _metadata(request: PackageRequest, config: dict[str, Any]) -> dict[str, Any]:
    """Constant methods, under the names that ExecuTorch's text runner reads."""
    generation = json.loads((request.checkpoint / "generation_config.json").read_text())
    eos = generation.get("eos_token_id", config.get("eos_token_id"))
    bos = generation.get("bos_token_id")
    return {
        "get_max_seq_len": request.context_length,
        "get_max_context_len": request.context_length,
        "get_vocab_size": config["vocab_size"],
        "get_n_layers": config["num_hidden_layers"],
        "get_eos_ids": [eos] if isinstance(eos, int) else list(eos or []),
        **({"get_bos_id": bos} if isinstance(bos, int) else {}),
        "use_kv_cache": True,
        "use_sdpa_with_kv_cache": True,
        "enable_dynamic_shape": True,
    }


def _quiet() -> None:
    """Exporters warn about their own internals at every layer; what fails raises, and is not silenced."""
    quiet_libraries()
    warnings.filterwarnings("ignore")


@contextlib.contextmanager
def _said(what: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    _log.info("packaging: %s took %.0f s", what, time.monotonic() - started)
