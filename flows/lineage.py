"""What a release was made from, step by step: its own manifest tells, and the supernet's registered version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from registry import naming
from registry.errors import OF_ONE_VERSION, NotFoundError
from registry.store import Store, Version

_UNKNOWN = "not noted"
"""Shown for what a version that was published before it was noted does not say."""


@dataclass(frozen=True)
class Step:
    """One thing, and the digest that it is known by: SHA-256, or a DVC revision for data, selection and supernet."""

    step: str
    what: str
    digest: str


def trace(registry: Store, model: str, target: str | None, alias_or_version: str) -> tuple[Step, ...]:
    """From the base to a package, or to a supernet where there is no target; raises the registry's errors."""
    name = naming.package_model(model, target) if target else naming.supernet_model(model)
    version = registry.resolve(name, alias_or_version)
    manifest = registry.manifest(version)
    lineage = manifest.lineage
    supernet = version if target is None else _supernet(registry, model, lineage)
    steps = [
        Step("base", _base(model, lineage), _noted(lineage, "base_fingerprint")),
        Step("data", f"profile {_noted(lineage, 'profile')}", _noted(lineage, "data_revision")),
        Step("selection", "layers and neurons that every shape keeps", _noted(lineage, "selection_revision")),
        Step("supernet", _version(supernet), _noted(lineage, "supernet_revision")),
    ]
    if target is None:
        return (*steps, Step("manifest", _version(version), manifest.digest))
    stated = manifest.facts.get("point")
    point: Mapping[str, Any] = stated if isinstance(stated, Mapping) else {}
    return (
        *steps,
        Step("subnet", str(point.get("shape", _UNKNOWN)), _noted(lineage, "subnet_sha256")),
        Step("package", f"{_version(version)}, {point.get('quantization', _UNKNOWN)}", manifest.content_digest),
        Step("manifest", f"code {_noted(lineage, 'git_commit')}", manifest.digest),
    )


def _supernet(registry: Store, model: str, lineage: Mapping[str, Any]) -> Version | None:
    """The registered version that holds the supernet a package was cut from; None where there is no such."""
    try:
        versions = registry.versions(naming.supernet_model(model))
    except NotFoundError:
        return None
    for version in versions:
        try:
            noted = registry.manifest(version).lineage.get("supernet_revision")
        except OF_ONE_VERSION:
            continue
        if noted is not None and noted == lineage.get("supernet_revision"):
            return version
    return None


def _base(model: str, lineage: Mapping[str, Any]) -> str:
    return f"{model}, {_noted(lineage, 'base_licence')}, from {_noted(lineage, 'base_source')}"


def _version(version: Version | None) -> str:
    if version is None:
        return "no registered version"
    aliases = f" ({', '.join(version.aliases)})" if version.aliases else ""
    return f"{version.registered_model} version {version.version}{aliases}"


def _noted(lineage: Mapping[str, Any], name: str) -> str:
    return str(lineage.get(name, _UNKNOWN))
