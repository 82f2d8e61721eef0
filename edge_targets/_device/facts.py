"""`package.json`: what a package says of itself, and the only thing that a runner has to go by."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .runner import Runner

FORMAT_VERSION = 2
PACKAGE_FILE = "package.json"
RUNNERS = ("executorch_runner", "onnxruntime_runner", "tensorrt_runner")
ONLY_FOR = {"cuda_memory": "tensorrt_runner", "tensorrt_engine": "tensorrt_runner"}
"""Modules that one runner alone needs: no other runner's package holds them."""
_FIELDS = {
    "format_version": int,
    "target": str,
    "runtime": dict,
    "runner": str,
    "shape": str,
    "quantization": str,
    "context_length": int,
    "vocab_size": int,
    "eos_token_ids": list,
    "model_files": list,
    "memory_mb": dict,
}


class PackageError(Exception):
    """A package could not be made, or is not what it says; the message names the reason and the next step."""


def read(folder: Path) -> Mapping[str, Any]:
    """`package.json`, its fields checked; raises PackageError when the folder is not a package of this format."""
    path = folder / PACKAGE_FILE
    if not path.is_file():
        raise PackageError(f"{folder} is not a package: it has no {PACKAGE_FILE}; `amoeba pull` fetches one")
    try:
        facts: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise PackageError(f"{path} is not JSON ({error}); pull the package again") from error
    if isinstance(facts, dict) and facts.get("format_version", FORMAT_VERSION) != FORMAT_VERSION:
        raise PackageError(f"{path} is of format {facts['format_version']}; this version reads {FORMAT_VERSION}")
    for name, kind in _FIELDS.items():
        if not isinstance(facts, dict) or not isinstance(facts.get(name), kind):
            raise PackageError(f"{path} holds no valid {name!r}; pull the package again")
    if facts["runner"] not in RUNNERS:
        raise PackageError(f"{path} wants the runner {facts['runner'][:80]!r}; this version has {', '.join(RUNNERS)}")
    return facts


def load(folder: Path, threads: int) -> Runner:
    """Open a package with the runner it names; raises PackageError for one that does not load, ValueError for no threads."""
    module = importlib.import_module(f".{read(folder)['runner']}", __package__)
    runner: Runner = module.load(folder, threads)
    return runner


def sha256(path: Path) -> str:
    """A file's digest; `hashlib.file_digest` is not in the Python 3.10 of some devices."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
