"""What every package holds, whatever its runtime: complete, or refused.

A device reads a package with no other source of truth, so everything it needs to answer a chat message is in the folder:
the model, the tokenizer and chat template, the end-of-sequence tokens, the licence, the model card, and `package.json`.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from components import family
from components.checkpoint import layers_of
from components.latency import Weights
from edge_targets import _device
from edge_targets._device.facts import FORMAT_VERSION, ONLY_FOR, PACKAGE_FILE, RUNNERS
from edge_targets._target import Package, PackageError, PackageRequest

_COPIED = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
_COPIED_TEXTS = ("chat_template.jinja", "LICENSE", "README.md")
DEVICE_FOLDER = "device"
"""What runs and measures the package; see `edge_targets._device`."""
_SCRIPTS = {"run.py": "run", "bench.py": "bench_here"}


def complete(
    request: PackageRequest,
    out: Path,
    *,
    target: str,
    runtime: str,
    runner: str,
    model_files: Sequence[str],
    cached_value_bytes: int = 4,
    varies: Mapping[str, str] | None = None,
) -> Package:
    """Add the texts and `package.json` to a folder that holds `model_files`; raises PackageError for what is missing.

    `varies` says which files another build of the same would write otherwise, and why; `cached_value_bytes` is of
    the KV cache.
    """
    for name in model_files:
        file = out / name
        if not file.is_file() or file.stat().st_size == 0:
            raise PackageError(f"the exporter for {target} ended without an error but wrote no {name}")
    for name in (*_COPIED, *_COPIED_TEXTS):
        source = request.checkpoint / name
        if not source.is_file():
            raise PackageError(f"the checkpoint of {request.shape} has no {name}, and a device cannot do without it")
        shutil.copyfile(source, out / name)
    config = json.loads((out / "config.json").read_text())
    weights_mb = sum((out / name).stat().st_size for name in model_files) / 1e6
    kv_cache_mb = kv_cache_bytes(config, request.context_length, cached_value_bytes) / 1e6
    facts = {
        "format_version": FORMAT_VERSION,
        "target": target,
        "runner": runner,
        "runtime": {"name": runtime, "version": importlib.metadata.version(runtime)},
        "shape": str(request.shape),
        "quantization": request.quantization,
        "context_length": request.context_length,
        "vocab_size": config["vocab_size"],
        "eos_token_ids": eos_token_ids(out, config),
        "model_files": list(model_files),
        **({"varies": dict(varies)} if varies else {}),
        "memory_mb": {"weights": round(weights_mb, 1), "kv_cache": round(kv_cache_mb, 1)},
    }
    (out / PACKAGE_FILE).write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n")
    _copy_device_code(out / DEVICE_FOLDER, runner)
    return Package(out)


def rename(package: Path, out: Path, target: str) -> None:
    """The same package for another target of its family, copied into the empty folder `out`: the registry takes no links."""
    shutil.copytree(package, out, dirs_exist_ok=True)
    facts = {**json.loads((out / PACKAGE_FILE).read_text()), "target": target}
    (out / PACKAGE_FILE).write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n")


def _copy_device_code(to: Path, runner: str) -> None:
    """The package's own way to run: what every package needs, and the one runner that this one names.

    The two scripts leave no compiled files behind, which would be files that the manifest does not list.
    """
    to.mkdir()
    for source in sorted(Path(_device.__file__).parent.glob("*.py")):
        if (source.stem not in RUNNERS or source.stem == runner) and ONLY_FOR.get(source.stem, runner) == runner:
            shutil.copyfile(source, to / source.name)
    for script, verb in _SCRIPTS.items():
        (to.parent / script).write_text(
            "import sys\n\nsys.dont_write_bytecode = True\n\n"
            f"from device.command import {verb}  # noqa: E402\n\nraise SystemExit({verb}())\n"
        )


def checked_model(checkpoint: Path, context_length: int) -> dict[str, Any]:
    """The checkpoint's config; raises PackageError for what a package would compute otherwise than the model, for a context
    that the model does not have, and for a weight that is not finite."""
    config: dict[str, Any] = json.loads((checkpoint / "config.json").read_text())
    try:
        family.check(config)
    except ValueError as error:
        raise PackageError(str(error)) from error
    longest, window = config["max_position_embeddings"], family.window_of(config)
    if not 1 < context_length <= longest:
        raise PackageError(f"a context of {context_length} tokens was asked for; the model takes 2 to {longest}")
    if window and window < context_length:  # one that is longer masks nothing
        raise PackageError(
            f"sliding_window is {window} and sliding windows are not expressed; ask for a context of at most {window}"
        )
    _check_weights(checkpoint)
    return config


def _check_weights(checkpoint: Path) -> None:
    """All weights, before any work: codes and scales would hide one that is no number, or fail far from it."""
    import ml_dtypes  # noqa: F401  importing it teaches numpy bfloat16
    from safetensors import safe_open

    for file in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(file, framework="np") as weights:
            for name in weights.keys():  # noqa: SIM118  no mapping
                if not np.isfinite(weights.get_tensor(name)).all():
                    raise PackageError(
                        f"the checkpoint's {name} holds a number that is not finite; train or extract it again"
                    )


def kv_cache_bytes(config: Mapping[str, Any], context_length: int, cached_value_bytes: int = 4) -> int:
    """Bytes of keys and values of all attending layers at a full context, counted as they are predicted."""
    weights = Weights.of(config, layers_of(config), cached_value_bytes=cached_value_bytes)
    return weights.kv_bytes_a_token * context_length


def eos_token_ids(folder: Path, config: Mapping[str, Any]) -> list[int]:
    """The generation config's end-of-sequence tokens, or the model's; raises PackageError where neither names one."""
    generation = json.loads((folder / "generation_config.json").read_text())
    for eos in (generation.get("eos_token_id"), config.get("eos_token_id")):
        if isinstance(eos, int):
            return [eos]
        if eos:
            return list(eos)
    raise PackageError("neither generation_config.json nor config.json names an eos_token_id: chat would never stop")
