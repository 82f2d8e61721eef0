"""One way into the registry for supernets and packages: under a run that carries what they were made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flows import metrics as counted
from flows import tracking
from flows.bases import Declared
from registry.manifest import Manifest


def publish(
    name: str,
    folder: Path,
    manifest: Manifest,
    registered_model: str,
    base: Declared,
    params: dict[str, Any],
    alias: str,
    metrics: dict[str, float],
    curve: dict[str, Any] | None = None,
) -> str:
    """Publish under a run that carries the lineage, unless the alias is at these very bytes, whole; returns the version."""
    registry, work = tracking.store(), (name, tracking.facts_of(base), {**params, "to": alias})
    known = registry.published(registered_model, manifest, alias)
    if known is not None:
        tracking.finish(*work)
        return known.version
    with tracking.run(*work) as run:
        run.metrics(metrics)
        if curve:
            run.curve(curve)
        tags = {f"amoeba.{key}": str(params[key]) for key in ("shape", "quantization") if key in params}
        version = registry.publish(
            folder, manifest, registered_model=registered_model, alias=alias, run_id=run.run_id, tags=tags
        )
    if manifest.target is not None:
        counted.package_published(manifest.target)
    return version.version
