"""One attempt: a tiny random model of some shape through one target and quantization, and its answers against torch's."""

from __future__ import annotations

import copy
import importlib.util
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from components.mixed import MixedConfig
from components.reference import load_checkpoint, logits_of
from components.selection import LayerCut
from components.shape import AnyShape, Shape, parse_shape
from edge_targets._device import facts
from edge_targets._target import PackageError, PackageRequest, Quantization, Target

Verdict = Literal["works", "refused", "not run here", "not attempted here", "WRONG"]

_CONTEXT_LENGTH = 96
_LAYERS = 2
_HOMOGENEOUS: AnyShape = Shape(_LAYERS, 100)
_MIXED = parse_shape("h0c4")
"""Attention alone, half an FFN alone, and a whole layer."""
_MIXED_LAYERS = (LayerCut(0, True, 0), LayerCut(1, False, 64), LayerCut(2, True, 128))
_LARGEST_ERRORS = ((32, 0.001), (16, 0.005), (8, 0.1), (0, 0.45))
"""By bits a weight. On these models int8 was seen to be off by up to 0.05, int4 by up to 0.40; a block left out gives 0.47 and
more, forgotten positions 0.79 and more."""


@dataclass(frozen=True)
class Case:
    """A kind of shape: `neurons` in every FFN, or layers that differ."""

    title: str
    family: str = "llama"
    tied: bool = True
    neurons: int = 128
    mixed: bool = False

    @property
    def shape(self) -> AnyShape:
        return _MIXED if self.mixed else _HOMOGENEOUS


CASES = (
    Case("Llama, tied head"),
    Case("Llama, head of its own", tied=False),
    *(Case(f"Llama, FFN of {neurons} neurons", neurons=neurons) for neurons in (32, 64, 40, 100)),
    Case("Llama, layers that differ", mixed=True),
    Case("Llama, layers that differ, head of its own", mixed=True, tied=False),
    *(
        Case(f"{title}{', layers that differ' if mixed else ''}", family, mixed=mixed)
        for title, family in (("Mistral", "mistral"), ("Qwen2", "qwen2"), ("Qwen3", "qwen3"))
        for mixed in (False, True)
    ),
)


@dataclass(frozen=True)
class Outcome:
    verdict: Verdict
    reason: str = ""


def attempt(case: Case, target: Target, quantization: Quantization) -> Outcome:
    """Package, load, compare. Whatever is neither a right answer nor a refusal in words is WRONG."""
    refusal = target.refuses(case.shape)
    if refusal:
        return Outcome("refused", refusal)
    lacking = [module for module in target.runtime_modules if importlib.util.find_spec(module) is None]
    if lacking:
        install = f"pip install -c constraints.txt -e '.[{target.extra}]'"
        return Outcome("not attempted here", f"{', '.join(lacking)} missing: {install}")
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, out = Path(folder, "checkpoint"), Path(folder, "package")
        out.mkdir()
        try:
            write(case, checkpoint)
            try:
                target.package(
                    PackageRequest(checkpoint, case.shape, quantization.name, _CONTEXT_LENGTH, _calibration_WT()), out
                )
            except PackageError as error:
                return Outcome("refused", str(error).replace(f"{folder}{os.sep}", ""))
            if target.cannot_run_here:
                if target.inspect is not None:
                    target.inspect(out)
                return Outcome("not run here", target.cannot_run_here)
            wrong = _difference(checkpoint, out, quantization)
        except Exception as error:  # a traceback is what a user must never see
            return Outcome("WRONG", f"{type(error).__name__}: {error}")
        return Outcome("WRONG", wrong) if wrong else Outcome("works")


def _calibration_WT() -> NDArray[np.int32]:
    """Text for quantizations that are calibrated: any will do for a random model."""
    return np.random.default_rng(0).integers(2, 90, (4, 32)).astype(np.int32)


def _difference(checkpoint: Path, package: Path, quantization: Quantization) -> str:
    """How the package's answers differ from torch's by more than its bits explain; nothing where they do not."""
    tokens = torch.randint(2, _tiny().VOCABULARY, (40,), generator=torch.Generator().manual_seed(4)).tolist()
    runner, wanted = facts.load(package, 1), logits_of(load_checkpoint(checkpoint))(tokens)
    given = runner.logits(tokens)
    error = float(np.linalg.norm(given - wanted) / np.linalg.norm(wanted))
    largest = next(limit for bits, limit in _LARGEST_ERRORS if quantization.linear_bits >= bits)
    if not error <= largest:  # nor where it is no number
        return (
            f"its logits are {error:.3f} of their size away from torch's; {largest} is expected of {quantization.name}"
        )
    return _cache_difference(runner, tokens[:9])


def _cache_difference(runner: Any, text: Sequence[int]) -> str:
    """Tokens written with the cache must be those of reading everything anew."""
    read = list(text)
    for token in runner.generate(text, 8, to_the_end=True):
        anew = int(runner.logits(read)[-1].argmax())
        if token != anew:
            return f"after {len(read)} tokens it writes {token} with its cache, and {anew} without"
        read.append(token)
    return ""


def write(case: Case, folder: Path) -> None:
    """A complete checkpoint folder of the case."""
    tiny = _tiny()
    layers = len(_MIXED_LAYERS) if case.mixed else _LAYERS
    config: PreTrainedConfig = copy.deepcopy(tiny.make_model(case.family, layers=layers, tied=case.tied).config)
    if case.mixed:
        architecture = type(tiny.make_model(case.family)).__name__
        config = MixedConfig.of(config, architecture, _MIXED_LAYERS)
    else:
        config.intermediate_size = case.neurons
    torch.manual_seed(1)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            parameter.copy_(1 + 0.2 * noise if "norm" in name else 0.15 * noise)
    tiny.write_base(folder, model)


@cache
def _tiny() -> Any:
    """The tests' tiny models, which are no installed package."""
    path = Path(__file__).parents[1] / "tests" / "fixtures" / "tiny.py"
    specification = importlib.util.spec_from_file_location("amoeba_tiny_models", path)
    if specification is None or specification.loader is None:
        raise FileNotFoundError(f"{path} is not there; run this from a checkout")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module
