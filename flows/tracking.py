"""MLflow runs: the parameters, metrics, curve and lineage behind every released version."""

from __future__ import annotations

import hashlib
import importlib.metadata
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flows import trusting
from flows.bases import Declared
from flows.data import lineage
from flows.settings import settings
from registry import naming
from registry.errors import NotFoundError
from registry.shelf import Shelf
from registry.store import Store
from registry.trust import Wanted

_VERSIONS_OF = ("torch", "transformers", "onnxruntime", "executorch", "torchao", "mlflow", "prefect", "dvc")
_REPORT_TAG = "amoeba.report"


def store(signature: Wanted = "when known") -> Store:
    """The registry this workspace publishes to, and when what is read from it must be signed."""
    return Store(
        settings().registry_uri,
        settings().artifact_root,
        trust=trusting.trust(signature),
        signing_key=trusting.signing_key(),
    )


def shelf() -> Shelf:
    """Where this user's pulled files are kept."""
    return Shelf(settings().pulled, settings().cache_megabytes * 1_000_000)


def facts_of(base: Declared) -> dict[str, Any]:
    """Where a version comes from: the base's bytes, the data's, the code's, and what ran it."""
    return {
        "base": base.name,
        "base_source": base.source,
        "base_fingerprint": base.fingerprint,
        "profile": base.profile,
        **lineage(base),
        "git_commit": _git_commit(),
        "versions": _versions(),
    }


def lineage_of(base: Declared, licence: str) -> dict[str, Any]:
    """The same for a manifest, with the base's licence; a base that is a local folder is named, not its path."""
    facts = {**facts_of(base), "base_licence": licence}
    if Path(base.source).is_absolute():
        facts["base_source"] = "local"
    return facts


@contextmanager
def run(name: str, facts: Mapping[str, Any], parameters: Mapping[str, Any]) -> Iterator[Run]:
    """A run that ends FINISHED, or FAILED when its body raises."""
    registry = store()
    client = registry.client()
    started = client.create_run(registry.experiment_id(), run_name=name)
    identifier = started.info.run_id
    for key, value in facts.items():
        client.set_tag(identifier, f"amoeba.{key}", str(value))
    for key, value in _flat(parameters).items():
        client.log_param(identifier, key, value)
    try:
        yield Run(identifier, client)
    except BaseException:
        client.set_terminated(identifier, "FAILED")
        raise
    client.set_terminated(identifier, "FINISHED")


class Run:
    """One open MLflow run."""

    def __init__(self, run_id: str, client: Any) -> None:
        self.run_id, self._client = run_id, client

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        for key, value in values.items():
            self._client.log_metric(self.run_id, key, value, step=step)

    def curve(self, curve: Mapping[str, Any]) -> None:
        """The training losses and the held-out perplexities, step by step, in few requests."""
        from mlflow.entities import Metric

        now = 0
        points = []
        for report in curve["train"]:
            for shape, loss in report["losses"].items():
                points.append(Metric(f"loss.{shape}", loss, now, report["step"]))
            points.append(Metric("loss.reference", report["reference"], now, report["step"]))
        for report in curve["validation"]:
            for shape, perplexity in report["perplexity"].items():
                points.append(Metric(f"validation_perplexity.{shape}", perplexity, now, report["step"]))
        for start in range(0, len(points), 1000):
            self._client.log_batch(self.run_id, metrics=points[start : start + 1000])


def log_report(registry: Store, model: str, files: Mapping[str, str], metrics: Mapping[str, float]) -> bool:
    """Put a report's files and figures beside the run of the supernet in production, unless this very report is there.

    False where no supernet is registered. Raises what the registry raises.
    """
    try:
        supernet = registry.resolve(naming.supernet_model(model))
    except NotFoundError:
        return False
    told = "".join(f"{name}\n{content}\n" for name, content in sorted(files.items())) + str(sorted(metrics.items()))
    digest = hashlib.sha256(told.encode()).hexdigest()
    client = registry.client()
    with registry.reaching():
        if client.get_run(supernet.run_id).data.tags.get(_REPORT_TAG) == digest:
            return True
        for name, content in files.items():
            client.log_text(supernet.run_id, content, f"report/{name}")
        Run(supernet.run_id, client).metrics(metrics)
        client.set_tag(supernet.run_id, _REPORT_TAG, digest)
    return True


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in _VERSIONS_OF if _installed(name)}


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _git_commit() -> str:
    """The workspace's commit, `-dirty` where tracked files differ from it; `unknown` outside git."""
    command = ["git", "-C", str(settings().root), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    return outcome.stdout.strip() or "unknown"
