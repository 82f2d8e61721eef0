"""How good the full float model is, kept beside the supernet that came of it: what every artifact is compared with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from registry.store import Store, Version

KIND = "reference"
FORMAT_VERSION = 1


class FullModelError(ValueError):
    """A document that says nothing of the full model; the message says why."""


def keep(registry: Store, supernet: Version, figures: Mapping[str, Any]) -> None:
    """Keep the full model's measurement beside its supernet; nothing is written where it is there already."""
    content = (json.dumps({"format_version": FORMAT_VERSION, **figures}, indent=1) + "\n").encode()
    if registry.attached(supernet, KIND) != content:
        registry.attach(supernet, KIND, content)


def of(registry: Store, supernet: Version) -> dict[str, Any] | None:
    """The measurement, None where none was kept; raises FullModelError for what cannot be read."""
    content = registry.attached(supernet, KIND)
    if content is None:
        return None
    try:
        figures: dict[str, Any] = json.loads(content)
        version = figures.pop("format_version")
        if version != FORMAT_VERSION:
            raise FullModelError(
                f"the full model's figures are of format {version}; this version reads {FORMAT_VERSION}"
            )
        if not figures["perplexity"]["nats"] or not figures["accuracy"]["correct"]:
            raise FullModelError("the full model's figures have no samples; onboard again")
    except (KeyError, TypeError, AttributeError, RecursionError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise FullModelError(
            f"these are no figures of a full model: {type(error).__name__} {str(error)[:80]}"
        ) from error
    return figures
