"""From a supernet and a choice to a package: the subnet extracted once a shape, the package built once."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from threading import Lock

import edge_targets
from components.kept import content_digest, once
from components.quiet import quiet_libraries
from components.shape import AnyShape, Shape
from edge_targets import _package
from edge_targets._environments import interpreter
from flows import code
from flows.bases import Declared, parameters
from flows.choosing import Choice
from flows.data import revision
from flows.installed import versions_of
from flows.settings import settings
from flows.sources import resolved
from flows.work import key_of, run_apart
from registry import bom
from registry.manifest import files_of

_ONE_MODEL_AT_A_TIME = Lock()
"""transformers builds models under settings of the whole process: another thread's model would come out without weights."""
_BUILDERS = ("torch", "transformers", "onnx", "onnxruntime", "executorch", "torchao")


def checkpoint_for(base: Declared, shape: AnyShape) -> Path:
    """The float subnet as an ordinary Hugging Face folder, extracted once a supernet and shape."""

    def extract_into(folder: Path) -> None:
        import torch

        quiet_libraries()
        from components.subnet import extract
        from components.supernet import Supernet

        origin = resolved(base.source)
        with _ONE_MODEL_AT_A_TIME:
            supernet = Supernet.load(base.artifacts / "supernet", origin.load(torch.float32))
            extract(supernet, shape).save(folder, origin, _card(base, origin.licence, shape))

    return once(settings().cache / "subnets" / _subnet_key(base, shape), extract_into)


def _subnet_key(base: Declared, shape: AnyShape) -> str:
    """The digest of all that decides a subnet's weights."""
    return key_of(
        {
            "supernet": revision("supernet", base),
            "base": base.fingerprint,
            "shape": str(shape),
            "code": code.extracting(),
        }
    )


def package_for(base: Declared, choice: Choice) -> Path:
    """The package folder, built in a process of its own; raises JobError with what the builder said."""

    def name_into(folder: Path) -> None:
        _package.rename(_built(base, choice), folder, choice.target)
        _list_materials(base, choice, folder)

    return once(settings().cache / "packages" / package_key(base, choice), name_into)


def _built(base: Declared, choice: Choice) -> Path:
    """A package of the target's family: one build serves them all."""
    checkpoint = checkpoint_for(base, choice.shape)

    def build_into(folder: Path) -> None:
        numbers = parameters()["package"]
        run_apart(
            [
                *("package", choice.target, "--out", str(folder), "--checkpoint", str(checkpoint)),
                *("--shape", str(choice.shape), "--quantization", choice.quantization),
                *("--context", str(choice.context_length), "--calibration", str(base.artifacts / "data")),
                *("--calibration-windows", str(numbers["calibration_windows"])),
            ],
            f"packaging {choice.shape} {choice.quantization} for {choice.target}",
            _exporter(choice.target),
        )

    return once(settings().cache / "built" / build_key(base, choice), build_into)


def _exporter(target: str) -> Path:
    """The Python that a target's exporter runs in: ours, or that of an environment of its own, made where it is not there yet."""
    environment = edge_targets.load(target).environment
    if environment is None:
        return Path(sys.executable)
    return interpreter(environment, settings().cache / "environments")


def package_key(base: Declared, choice: Choice) -> str:
    """The digest of everything that decides a package's bytes."""
    return key_of({"build": build_key(base, choice), "target": choice.target, "bill": bom.FORMAT_VERSION})


def licence_of(folder: Path) -> str:
    """The licence that a package's or checkpoint's own card states."""
    stated = re.search(r"^license: (.+)$", (folder / "README.md").read_text(), re.MULTILINE)
    return stated[1] if stated else "not stated"


def _list_materials(base: Declared, choice: Choice, folder: Path) -> None:
    """Write the package's bill of materials into it, for all files that it has by now."""
    checkpoint = checkpoint_for(base, choice.shape)
    facts = json.loads((folder / "package.json").read_text())
    made_of = bom.Ingredients(
        model=base.name,
        target=choice.target,
        shape=str(choice.shape),
        quantization=choice.quantization,
        architecture=json.loads((folder / "config.json").read_text())["architectures"][0],
        licence=licence_of(folder),
        base_fingerprint=base.fingerprint,
        data_revision=revision("data", base),
        selection_revision=revision("selection", base),
        supernet_revision=revision("supernet", base),
        subnet_sha256=content_digest(checkpoint),
        runtime=(facts["runtime"]["name"], facts["runtime"]["version"]),
        builders=builder_versions(),
    )
    (folder / bom.BOM_FILE).write_bytes(bom.bill_of_materials(made_of, files_of(folder)))


def build_key(base: Declared, choice: Choice) -> str:
    """The digest of all of that but the target's name: subnet, choice, context, calibration, builders and their code."""
    family = edge_targets.load(choice.target).family
    return key_of(
        {
            "subnet": _subnet_key(base, choice.shape),
            "choice": [family or choice.target, choice.quantization, choice.context_length],
            "calibration": [revision("data", base), parameters()["package"]["calibration_windows"]],
            "builders": builder_versions(),
            "code": code.packaging(choice.target),
        }
    )


def builder_versions() -> dict[str, str]:
    """Installed versions of what decides a package's bytes; a missing one is left out."""
    return versions_of(_BUILDERS)


def _card(base: Declared, licence: str, shape: AnyShape) -> str:
    if isinstance(shape, Shape):
        kept = f"{shape.depth} whole layers, {shape.width_percent} % of the FFN neurons in each"
    else:
        kept = f"attention in {sum(layer.attention for layer in shape.layers)} layers, FFNs of different widths"
    return (
        f"---\nlicense: {licence}\n---\n\n# {base.name} {shape}\n\n"
        f"A subnet of {base.source}: {kept}, cut from one elastic supernet and merged into plain weights. "
        "Quality and speed are in the manifest beside the package.\n\n"
        f"The base's licence, {licence}, holds for this subnet; its text is in LICENSE. The subnet is more often wrong than "
        "its base and inherits its limits: check what it says.\n"
    )
