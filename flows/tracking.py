"""MLflow runs: the parameters, metrics, curve and lineage behind every released version."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from flows import trusting
from flows.bases import Declared
from flows.data import lineage
from flows.installed import versions_of
from flows.settings import settings
from registry import naming
from registry.errors import NotFoundError, RegistryError
from registry.shelf import Shelf
from registry.store import Store
from registry.trust import Wanted

_VERSIONS_OF = ("torch", "transformers", "onnxruntime", "executorch", "torchao", "mlflow", "prefect", "dvc")
_REPORT_TAG = "amoeba.report"
_WORK_TAG = "amoeba.work"


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
        "versions": versions_of(_VERSIONS_OF),
    }


def lineage_of(base: Declared, licence: str) -> dict[str, Any]:
    """The same for a manifest, with the base's licence; a base that is a local folder is named, not its path."""
    facts = {**facts_of(base), "base_licence": licence}
    if Path(base.source).is_absolute():
        facts["base_source"] = "local"
    return facts


@contextmanager
def run(name: str, facts: Mapping[str, Any], parameters: Mapping[str, Any]) -> Iterator[Run]:
    """A run that ends FINISHED, or FAILED when its body raises or says that it is not `complete`.

    One of the same name, facts and parameters that did not finish, since its process was killed or failed, goes on. Raises what
    the registry raises; what the body raises is told rather than that its run cannot be ended.
    """
    registry = store()
    identifier = _found(registry, name, facts, parameters, "!=")
    with registry.reaching():
        client = registry.client()
        if identifier is None:
            tags = {_WORK_TAG: _work(name, facts, parameters), **{f"amoeba.{key}": str(facts[key]) for key in facts}}
            identifier = client.create_run(registry.experiment_id(), run_name=name, tags=tags).info.run_id
        else:
            client.update_run(identifier, status="RUNNING")
        for key, value in _flat(parameters).items():
            client.log_param(identifier, key, value)
    opened = Run(identifier, registry)
    try:
        yield opened
    except BaseException:
        with suppress(RegistryError):
            opened.end("FAILED")
        raise
    opened.end("FINISHED" if opened.complete else "FAILED")


def finish(name: str, facts: Mapping[str, Any], parameters: Mapping[str, Any]) -> None:
    """End a run whose work is done and whose process was killed before it could say so."""
    registry = store()
    identifier = _found(registry, name, facts, parameters, "!=")
    if identifier is not None:
        Run(identifier, registry).end("FINISHED")


def is_finished(name: str, facts: Mapping[str, Any], parameters: Mapping[str, Any]) -> bool:
    """Whether a run of that name, facts and parameters came to its end."""
    return _found(store(), name, facts, parameters, "=") is not None


def any_finished(name: str, facts: Mapping[str, Any]) -> bool:
    """Whether a run of that name and facts came to its end, whatever its parameters."""
    tags = "".join(f" and tags.`amoeba.{key}` = '{value}'" for key, value in facts.items())
    return _search(store(), f"attributes.run_name = '{name}' and attributes.status = 'FINISHED'{tags}") is not None


def tagged(tag: str, value: str) -> Run | None:
    """The latest run with this tag."""
    registry = store()
    identifier = _search(registry, f"tags.`{tag}` = '{value}'")
    return None if identifier is None else Run(identifier, registry)


def _found(
    registry: Store, name: str, facts: Mapping[str, Any], parameters: Mapping[str, Any], finished: Literal["=", "!="]
) -> str | None:
    work = _work(name, facts, parameters)
    return _search(registry, f"tags.`{_WORK_TAG}` = '{work}' and attributes.status {finished} 'FINISHED'")


def _search(registry: Store, wanted: str) -> str | None:
    with registry.reaching():
        found = registry.client().search_runs([registry.experiment_id()], wanted, max_results=1)
    return str(found[0].info.run_id) if found else None


def _work(name: str, facts: Mapping[str, Any], parameters: Mapping[str, Any]) -> str:
    """What a run is for."""
    told = json.dumps([name, facts, parameters], sort_keys=True, default=str)
    return hashlib.sha256(told.encode()).hexdigest()


class Run:
    """One MLflow run; every method raises what the registry raises."""

    def __init__(self, run_id: str, registry: Store) -> None:
        self.run_id, self._registry = run_id, registry
        self.complete = True

    def tag(self, name: str, value: str) -> None:
        with self._reached() as client:
            client.set_tag(self.run_id, name, value)

    def latest(self, metric: str) -> float:
        """0 where there is none."""
        with self._reached() as client:
            return float(client.get_run(self.run_id).data.metrics.get(metric, 0.0))

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        with self._reached() as client:
            for key, value in values.items():
                client.log_metric(self.run_id, key, value, step=step)

    def end(self, status: Literal["FINISHED", "FAILED"]) -> None:
        with self._reached() as client:
            client.set_terminated(self.run_id, status)

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
        with self._reached() as client:
            for start in range(0, len(points), 1000):
                client.log_batch(self.run_id, metrics=points[start : start + 1000])

    @contextmanager
    def _reached(self) -> Iterator[Any]:
        with self._registry.reaching():
            yield self._registry.mlflow


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
        Run(supernet.run_id, registry).metrics(metrics)
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


def _git_commit() -> str:
    """The workspace's commit, `-dirty` where tracked files differ from it; `unknown` outside git.

    Nothing is written into the repository: a kill would leave git's lock there.
    """
    commit = _git("describe", "--always", "--abbrev=40", "--exclude=*")
    changed = _git("status", "--porcelain", "--untracked-files=no") if commit else ""
    return commit + ("-dirty" if changed else "") or "unknown"


def _git(*arguments: str) -> str:
    command = ["git", "--no-optional-locks", "-C", str(settings().root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
