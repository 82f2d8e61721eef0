"""`bom.json`: a package's bill of materials, in CycloneDX 1.6 with a model card (ML-BOM).

It says what a package is made of and from: its files, its runtime, the subnet, the supernet and the base in a line of
ancestors, the data, the builders, and the licence. Signed with the package, since the manifest lists it.

1. The same ingredients give the same bytes: no clock, no random number; the serial number comes from the content.
2. Nothing that was measured is in it: figures are the manifest's, and change without the package.

Written by hand: cyclonedx-python-lib has no model cards. The tests validate with the official schema that it carries.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from registry.errors import RefusedError
from registry.manifest import FileEntry

BOM_FILE = "bom.json"
FORMAT_VERSION = 1
_SPDX = (
    "Apache-2.0",
    "MIT",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC-BY-4.0",
    "CC-BY-NC-4.0",
    "CC-BY-SA-4.0",
    "GPL-3.0-only",
)
"""Licences that model cards name in small letters; any other is given by its name as it is."""


@dataclass(frozen=True)
class Ingredients:
    """What a package is, and what it was made from and with; every digest is a SHA-256 or, for DVC, a revision."""

    model: str
    target: str
    shape: str
    quantization: str
    architecture: str
    licence: str
    base_fingerprint: str
    data_revision: str
    selection_revision: str
    supernet_revision: str
    subnet_sha256: str
    runtime: tuple[str, str]
    builders: Mapping[str, str]

    def __post_init__(self) -> None:
        empty = [name for name, value in vars(self).items() if not value and name != "builders"]
        if empty:
            raise RefusedError(f"a bill of materials says everything; {', '.join(empty)} is empty")


def bill_of_materials(made_of: Ingredients, files: Sequence[FileEntry]) -> bytes:
    """The document, for a package of these files."""
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "lifecycles": [{"phase": "build"}],
            "tools": {"components": [_library(name, version) for name, version in sorted(made_of.builders.items())]},
            "component": _package(made_of),
        },
        "components": [
            {**_library(*made_of.runtime), "bom-ref": "runtime"},
            _data(made_of),
            *(_file(entry) for entry in sorted(files, key=lambda entry: entry.path)),
        ],
        "dependencies": [
            {"ref": "package", "dependsOn": ["runtime", *sorted(_reference(entry) for entry in files)]},
            {"ref": "supernet", "dependsOn": ["data"]},
        ],
    }
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).digest()
    document["serialNumber"] = f"urn:uuid:{uuid.UUID(bytes=digest[:16], version=5)}"
    return f"{json.dumps(document, indent=1, sort_keys=True)}\n".encode()


def subnet_of(content: bytes) -> str:
    """The digest of the subnet that a package was exported from, by its bill of materials."""
    ancestors = json.loads(content)["metadata"]["component"]["pedigree"]["ancestors"]
    return str(ancestors[0]["hashes"][0]["content"])


def _package(made_of: Ingredients) -> dict[str, Any]:
    base = {
        **_model("base", made_of.model, made_of.base_fingerprint),
        "licenses": _licences(made_of.licence),
        **_hash(made_of.base_fingerprint),
    }
    supernet = {
        **_model("supernet", f"{made_of.model} supernet", made_of.supernet_revision),
        "properties": _properties(
            supernet_revision=made_of.supernet_revision, selection_revision=made_of.selection_revision
        ),
        "pedigree": {"ancestors": [base]},
    }
    subnet = {
        **_model("subnet", f"{made_of.model} {made_of.shape}", made_of.shape),
        **_hash(made_of.subnet_sha256),
        "pedigree": {"ancestors": [supernet]},
    }
    return {
        **_model("package", f"{made_of.model}--{made_of.target}", f"{made_of.shape}-{made_of.quantization}"),
        "licenses": _licences(made_of.licence),
        "modelCard": {
            "modelParameters": {
                "task": "text-generation",
                "architectureFamily": "transformer",
                "modelArchitecture": made_of.architecture,
                "datasets": [{"ref": "data"}],
            },
            "properties": _properties(
                shape=made_of.shape, quantization=made_of.quantization, target=made_of.target, card="README.md"
            ),
        },
        "pedigree": {"ancestors": [subnet]},
    }


def _model(reference: str, name: str, version: str) -> dict[str, Any]:
    return {"type": "machine-learning-model", "bom-ref": reference, "name": name, "version": version}


def _data(made_of: Ingredients) -> dict[str, Any]:
    contents = {"properties": _properties(data_revision=made_of.data_revision)}
    return {
        "type": "data",
        "bom-ref": "data",
        "name": f"{made_of.model} data",
        "version": made_of.data_revision,
        "data": [
            {"type": "dataset", "name": "texts for calibration, fine-tuning and evaluation", "contents": contents}
        ],
    }


def _file(entry: FileEntry) -> dict[str, Any]:
    return {"type": "file", "bom-ref": _reference(entry), "name": entry.path, **_hash(entry.sha256)}


def _reference(entry: FileEntry) -> str:
    return f"file:{entry.path}"


def _library(name: str, version: str) -> dict[str, Any]:
    purl = f"pkg:pypi/{name.lower().replace('_', '-')}@{quote(version, safe='.-_~')}"
    return {"type": "library", "name": name, "version": version, "purl": purl}


def _licences(stated: str) -> list[dict[str, Any]]:
    known = next((name for name in _SPDX if name.lower() == stated.lower()), None)
    return [{"license": {"id": known} if known else {"name": stated}}]


def _hash(sha256: str) -> dict[str, Any]:
    return {"hashes": [{"alg": "SHA-256", "content": sha256}]}


def _properties(**values: str) -> list[dict[str, str]]:
    return [{"name": f"amoeba:{name}", "value": value} for name, value in values.items()]
