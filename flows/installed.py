"""What is installed here, by its distribution's own metadata."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable


def version_of(distribution: str) -> str | None:
    """None where nothing of that name is installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def versions_of(distributions: Iterable[str]) -> dict[str, str]:
    """By name; what is not installed is left out."""
    return {name: version for name in distributions if (version := version_of(name)) is not None}
