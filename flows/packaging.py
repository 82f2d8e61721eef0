"""From a supernet and a target to a verified, measured package: each step is skipped where its outcome is already there.

An outcome's folder is named by the digest of all that decides it, and gets that name only when it is whole.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import shutil
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

import edge_targets
from components.frontier import Point
from components.latency import Weights, predict
from components.quiet import quiet_libraries
from components.search import Candidate, NothingFitsError, Verdict, choose
from components.shape import Shape
from components.stages import say
from flows.bases import Declared, parameters
from flows.data import revision
from flows.settings import settings

if TYPE_CHECKING:
    from edge_targets._target import Budget

_BUILDERS = ("torch", "transformers", "onnx", "onnxruntime", "executorch", "torchao")


class JobError(Exception):
    """A target's job failed; nothing of it was published."""


@dataclass(frozen=True)
class Choice:
    """What is built for a target, and why nothing else was."""

    target: str
    shape: Shape
    quantization: str
    verdicts: tuple[Verdict, ...]


def choose_for(base: Declared, base_folder: Path, target_name: str, budget: Budget | None = None) -> Choice:
    """The best shape and quantization within a budget (the target's own when None); raises JobError when none fits."""
    target = edge_targets.load(target_name)
    supernet = json.loads((base.artifacts / "supernet" / "supernet.json").read_text())
    multiple = json.loads((base.artifacts / "selection" / "selection.json").read_text())["neuron_multiple"]
    config = json.loads((base_folder / "config.json").read_text())
    context = parameters()["package"]["context_length"]
    candidates, refused = [], []
    for text, perplexity in supernet["validation_perplexity"].items():
        shape = Shape.parse(text)
        if target.refuses(shape):
            refused.append(f"{shape}: {target.refuses(shape)}")
            continue
        weights = Weights.of(config, shape.depth, shape.neurons(config["intermediate_size"], multiple))
        for quantization in target.quantizations:
            cost = predict(
                weights,
                quantization.linear_bits,
                quantization.embedding_bits,
                target.device.bandwidth_gb_s,
                target.device.int8_gops,
                context,
            )
            candidates.append(Candidate(shape, quantization.name, perplexity * quantization.perplexity_ratio, cost))
    if not candidates:
        raise JobError(f"{target.name} runs no shape of this supernet: {'; '.join(refused)}")
    usual = [candidate for candidate in candidates if candidate.quantization == target.quantizations[0].name]
    full = max(usual, key=lambda c: (c.shape.depth, c.shape.width_percent)).cost
    wanted = budget or target.budget
    try:
        chosen, verdicts = choose(candidates, *wanted.limits(full.tpot_ms, target.device.memory_mb))
    except NothingFitsError as error:
        raise JobError(f"{target.name}: {error}") from error
    return Choice(target.name, chosen.shape, chosen.quantization, verdicts)


def checkpoint_for(base: Declared, shape: Shape) -> Path:
    """The float subnet as an ordinary Hugging Face folder, extracted once a supernet and shape."""
    key = _key({"supernet": revision("supernet", base), "base": base.fingerprint, "shape": str(shape)})

    def extract_into(folder: Path) -> None:
        import torch

        quiet_libraries()
        from components.base import resolve
        from components.subnet import extract
        from components.supernet import Supernet

        origin = resolve(base.source, settings().cache)
        supernet = Supernet.load(base.artifacts / "supernet", origin.load(torch.float32))
        extract(supernet, shape).save(folder, origin, _card(base, origin.licence, shape))

    return _once(settings().cache / "subnets" / key, extract_into)


def package_for(base: Declared, choice: Choice) -> Path:
    """The package folder, built in a process of its own; raises JobError with what the builder said."""
    checkpoint = checkpoint_for(base, choice.shape)

    def build_into(folder: Path) -> None:
        _run(
            [
                *("package", choice.target, "--out", str(folder), "--checkpoint", str(checkpoint)),
                *("--shape", str(choice.shape), "--quantization", choice.quantization),
                *("--context", str(parameters()["package"]["context_length"])),
            ],
            f"packaging {choice.shape} {choice.quantization} for {choice.target}",
        )

    return _once(settings().cache / "packages" / package_key(base, choice), build_into)


def package_key(base: Declared, choice: Choice) -> str:
    """The digest of everything that decides a package's bytes: supernet, choice, context, builders and their code."""
    return _key(
        {
            "supernet": revision("supernet", base),
            "base": base.fingerprint,
            "choice": [choice.target, str(choice.shape), choice.quantization],
            "context": parameters()["package"]["context_length"],
            "builders": builder_versions(),
            "code": _code_digest(Path(edge_targets.__file__).parent, f"{choice.target}.py"),
        }
    )


def measure_package(base: Declared, choice: Choice) -> dict[str, Any]:
    """The package's figures, taken once a package, data revision and settings; raises JobError when it fails `verify`."""
    figures = measurement(
        base,
        choice.target,
        package_for(base, choice),
        package_key(base, choice),
        ["--checkpoint", str(checkpoint_for(base, choice.shape))],
    )
    limits, close = parameters()["verify"], figures["agreement"]
    if close["top_1"] < limits["min_top_1"] or close["kl"] > limits["max_kl"]:
        raise JobError(
            f"{choice.target}: {choice.shape} {choice.quantization} agrees with its float subnet on {close['top_1']:.1%} of "
            f"tokens at KL {close['kl']:.3f}; published are at least {limits['min_top_1']:.0%} and at most "
            f"{limits['max_kl']}. Nothing was published"
        )
    return figures


def measurement(
    base: Declared, target: str, package: Path, key: str, arguments: Sequence[str] = (), *, again: bool = False
) -> dict[str, Any]:
    """Run `edge_targets measure` on a package; `again` measures even where a measurement is kept."""
    numbers = parameters()["measure"]
    name = _key({"package": key, "data": revision("data", base), "numbers": numbers, "arguments": len(arguments)})
    out = settings().cache / "measurements" / f"{name}{'-again' if again else ''}.json"
    if again or not out.is_file():
        options = [part for name, value in numbers.items() for part in (f"--{name.replace('_', '-')}", str(value))]
        with FileLock(settings().cache / "measuring.lock"):
            _run(
                [
                    *("measure", target, "--package", str(package), "--evaluation", str(base.artifacts / "data")),
                    *("--out", str(out), *options, *arguments),
                ],
                f"measuring {target}",
            )
    figures: dict[str, Any] = json.loads(out.read_text())
    return figures


def reference(base: Declared, base_folder: Path) -> dict[str, Any]:
    """Quality of the full float model on the same text and questions."""
    key = _key({"base": base.fingerprint, "data": revision("data", base)})
    out = settings().cache / "measurements" / f"{key}.json"
    if not out.is_file():
        _run(
            [
                "reference",
                "--checkpoint",
                str(base_folder),
                "--evaluation",
                str(base.artifacts / "data"),
                "--out",
                str(out),
            ],
            "measuring the full model",
        )
    figures: dict[str, Any] = json.loads(out.read_text())
    return figures


def point_of(shape: str, quantization: str, figures: dict[str, Any]) -> Point:
    return Point(
        shape=shape,
        quantization=quantization,
        perplexity=figures["perplexity"]["value"],
        accuracy=figures["accuracy"]["value"],
        accuracy_interval=tuple(figures["accuracy"]["interval"]),
        ttft_ms=figures["latency"]["ttft_ms"],
        tpot_ms=figures["latency"]["tpot_ms"],
        memory_mb=figures["latency"]["peak_memory_mb"],
        size_mb=figures["size_mb"],
        measured_on=figures["measured_on"],
    )


def builder_versions() -> dict[str, str]:
    """Installed versions of what decides a package's bytes; a missing one is left out."""
    versions = {}
    for name in _BUILDERS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _run(arguments: list[str], what: str) -> None:
    """Run in a process of its own, its standard error passed on line by line; raises JobError with its last words."""
    say(what)
    command = [sys.executable, "-m", "edge_targets", *arguments]
    kept: deque[str] = deque(maxlen=50)
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        for line in filter(str.strip, process.stderr):
            kept.append(line.rstrip())
            if not line.startswith("error: "):
                sys.stderr.write(line)
    if process.returncode != 0:
        reason = next((line.removeprefix("error: ") for line in reversed(kept) if line.startswith("error: ")), None)
        raise JobError(f"{what} failed: {reason or ' / '.join(list(kept)[-3:]) or f'exit {process.returncode}'}")


def _once(folder: Path, fill: Callable[[Path], None]) -> Path:
    """`folder`, filled beside and renamed when it is whole; whoever comes second waits and finds it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not folder.is_dir():
            with _beside(folder) as half:
                fill(half)
                half.chmod(0o755)
                half.rename(folder)
    return folder


@contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    half = Path(tempfile.mkdtemp(prefix=f".{folder.name}.partial-", dir=folder.parent))
    try:
        yield half
    finally:
        if half.is_dir():
            shutil.rmtree(half, ignore_errors=True)


def _key(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _code_digest(folder: Path, *targets: str) -> str:
    """Digest of what targets share and of the named target files; another target's file changes nothing here."""
    total = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        if path.name.startswith("_") or path.name in targets:
            total.update(f"{path.name}\n".encode() + path.read_bytes())
    return total.hexdigest()


def _card(base: Declared, licence: str, shape: Shape) -> str:
    return (
        f"---\nlicense: {licence}\n---\n\n# {base.name} {shape}\n\n"
        f"A subnet of {base.source}: {shape.depth} whole layers, {shape.width_percent} % of the FFN neurons in each, cut from "
        "one elastic supernet and merged into plain weights. Quality and speed are in the manifest beside the package.\n\n"
        f"The base's licence, {licence}, holds for this subnet; its text is in LICENSE. The subnet is more often wrong than "
        "its base and inherits its limits: check what it says.\n"
    )
