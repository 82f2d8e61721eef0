"""Regressions of quality that are really there: weights rounded worse, a layer with noise in it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

import edge_targets
from components.data import Data, load_evaluation
from components.evaluate import multiple_choice, perplexity
from components.gate import Evidence
from components.likelihood import Continuing
from components.progress import progress
from components.shape import parse_shape
from edge_targets import _onnx, _package
from edge_targets._device import facts
from edge_targets._onnx_decoder import read_decoder
from edge_targets._onnx_files import weights_of, write_model
from edge_targets._onnx_graph import build
from edge_targets._target import PackageRequest
from flows import packaging
from flows.bases import Declared, parameters
from flows.evidence import Artifact

_NOISE = {"a layer damaged a little": 0.3, "a layer damaged": 0.6, "a layer damaged badly": 2.0}
"""Standard deviation of the noise, in that of the layer's own weights."""
PLANTED = ("rounded to nearest", *_NOISE)


@dataclass(frozen=True)
class Answers:
    """Every window's mean log-likelihood and every question's answer."""

    nats: NDArray[np.float64]
    correct: NDArray[np.bool_]

    def drawn(self, windows: NDArray[np.int64], questions: NDArray[np.int64]) -> Evidence:
        return Evidence(tuple(self.nats[windows].tolist()), tuple(self.correct[questions].tolist()))

    def evidence(self) -> Evidence:
        return self.drawn(np.arange(len(self.nats)), np.arange(len(self.correct)))


def answers_of(base: Declared, artifact: Artifact, work: Path, threads: int) -> dict[str, Answers]:
    """Of the artifact and of each planted regression, kept in `work` for this package and data."""
    digest = artifact.manifest.content_digest[:16]
    found = {}
    for name in ("unchanged", *PLANTED):
        kept = work / f"{digest}-{name.replace(' ', '-')}.json"
        if not kept.is_file():
            package = artifact.folder if name == "unchanged" else _built(base, artifact, work, name)
            kept.write_text(json.dumps(_answer(base, package, name, threads)))
        values = json.loads(kept.read_text())
        found[name] = Answers(np.array(values["nats"]), np.array(values["correct"], bool))
    return found


def _answer(base: Declared, package: Path, name: str, threads: int) -> dict[str, Any]:
    windows_WT, questions = load_evaluation(base.artifacts / "data")
    runner = facts.load(package, threads)
    read = perplexity(runner.logits, windows_WT.tolist(), progress(f"{name}: text"))
    answered = multiple_choice(Continuing(runner.passage()), questions, progress(f"{name}: questions"))
    return {"nats": read.nats, "correct": answered.correct}


def _built(base: Declared, artifact: Artifact, work: Path, name: str) -> Path:
    """The artifact again, made worse on its way."""
    known = facts.read(artifact.folder)
    shape = parse_shape(known["shape"])
    checkpoint = packaging.checkpoint_for(base, shape)
    calibration_WT = Data.load(base.artifacts / "data").spread(parameters()["package"]["calibration_windows"])
    request = PackageRequest(checkpoint, shape, known["quantization"], known["context_length"], calibration_WT)
    out = work / name.replace(" ", "-")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    if name not in _NOISE:
        return _rounded_to_nearest(request, out, known)
    damaged = replace(request, checkpoint=_damaged(checkpoint, work / "damaged", _NOISE[name]))
    return edge_targets.load(known["target"]).package(damaged, out).folder


def _rounded_to_nearest(request: PackageRequest, out: Path, known: Mapping[str, Any]) -> Path:
    """As `edge_targets._onnx` builds, of weights that were rounded one by one."""
    decoder = read_decoder(request.checkpoint, request.context_length)
    with weights_of(request.checkpoint) as weights:
        model = build(decoder, _onnx.STORAGE[request.quantization], weights, {})
    files = write_model(model, out)
    return _package.complete(
        request, out, target=known["target"], runtime="onnxruntime", runner=known["runner"], model_files=files
    ).folder


def _damaged(checkpoint: Path, to: Path, noise: float) -> Path:
    """The checkpoint with noise in the middle layer's down projection."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(checkpoint, to)
    weights = load_file(to / "model.safetensors")
    layers = json.loads((to / "config.json").read_text())["num_hidden_layers"]
    name = f"model.layers.{layers // 2}.mlp.down_proj.weight"
    weight = weights[name]
    spread = np.random.default_rng(0).normal(0, noise * float(weight.std()), weight.shape)
    weights[name] = weight + spread.astype(weight.dtype)
    save_file(weights, to / "model.safetensors", {"format": "pt"})
    return to
