"""The main job: a base model in, a verified artifact out for every target.

    data -> selection -> one-time fine-tune -> register -> one job a target: choose, extract, package -> measure, publish

Take the decorators away and it still works. Tasks hand names and small records to each other, never tensors; what is
large stays in folders named by content, so a second run finds every step done.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.task_runners import ThreadPoolTaskRunner

import edge_targets
from components.base import Base, resolve
from components.frontier import Point
from flows import choosing, data, measuring, packaging, tracking
from flows.bases import Declared, check_profile, declare, parameters
from flows.choosing import Choice
from flows.settings import settings
from flows.space import ensure_space
from flows.trouble import reason
from registry import naming
from registry.manifest import Manifest
from registry.store import CANDIDATE, PRODUCTION


@dataclass(frozen=True)
class Released:
    """One published artifact."""

    target: str
    registered_model: str
    version: str
    alias: str
    point: Point
    choice: Choice


@dataclass(frozen=True)
class Outcome:
    """What an onboarding released, against the full model, and what failed with the reason."""

    base: str
    supernet_version: str
    full_perplexity: float
    full_accuracy: float
    released: tuple[Released, ...]
    failed: dict[str, str]


@flow(name="onboard", task_runner=ThreadPoolTaskRunner(max_workers=2))  # type: ignore[arg-type]
def onboard(source: str, profile: str = "quick", targets: Sequence[str] = ()) -> Outcome:
    """Onboard a base for `targets`, or for every target there is. A failed target does not lose the others."""
    check_profile(profile)
    wanted = tuple(targets) or edge_targets.names()
    for target in wanted:
        edge_targets.load(target)
    origin = find_base(source)
    ensure_space(settings().root, origin.size_bytes)
    base = declare(origin, profile)
    for stage in data.STAGES:
        reproduce(stage, base)
    supernet_version = register_supernet(base)
    jobs = {target: build.submit(base, origin.folder, target) for target in wanted}
    full = measure_full_model(base, origin.folder)
    released, failed = [], {}
    for target, job in jobs.items():
        choice = job.result(raise_on_failure=False)
        if not isinstance(choice, Choice):
            failed[target] = reason(choice)
            continue
        try:
            released.append(release(base, choice))
        except Exception as error:  # one target's trouble is reported, and the others go on
            failed[target] = reason(error)
    push(base)
    return Outcome(
        base.name, supernet_version, full["perplexity"]["value"], full["accuracy"]["value"], tuple(released), failed
    )


@task
def find_base(source: str) -> Base:
    """The base's local folder and fingerprint."""
    return resolve(source, settings().cache)


@task(task_run_name="{stage}")
def reproduce(stage: str, base: Declared) -> None:
    """Bring one DVC stage up to date."""
    data.reproduce(stage, base)


@task
def register_supernet(base: Declared) -> str:
    """Publish the supernet as a version of the base's registered model, with its curve; returns the version."""
    folder = base.artifacts / "supernet"
    facts = json.loads((folder / "supernet.json").read_text())
    manifest = Manifest.of(
        folder,
        kind="supernet",
        model=base.name,
        target=None,
        facts={"validation_perplexity": facts["validation_perplexity"]},
        lineage={"base_fingerprint": base.fingerprint, **data.lineage(base)},
    )
    return publish(
        f"supernet {base.name}",
        folder,
        manifest,
        naming.supernet_model(base.name),
        base,
        parameters()["profiles"][base.profile],
        {f"validation_perplexity.{shape}": value for shape, value in facts["validation_perplexity"].items()},
        json.loads((folder / "curve.json").read_text()),
    )


@task(task_run_name="build {target}")
def build(base: Declared, base_folder: Path, target: str) -> Choice:
    """Choose, extract, quantize and package for one target."""
    choice = choosing.choose_for(base, base_folder, target)
    packaging.package_for(base, choice)
    return choice


@task
def measure_full_model(base: Declared, base_folder: Path) -> dict[str, Any]:
    """Quality of the full float model, which every artifact is compared with."""
    return measuring.reference(base, base_folder)


@task(task_run_name="release {choice.target}")
def release(base: Declared, choice: Choice) -> Released:
    """Verify and measure a package, one at a time so that nothing disturbs the clock, and publish it.

    What only its device runs is published as a candidate: production is what was measured.
    """
    point, figures = measuring.examine(base, choice)
    alias = CANDIDATE if point.measured_on == "predicted" else PRODUCTION
    folder = packaging.package_for(base, choice)
    manifest = Manifest.of(
        folder,
        kind="package",
        model=base.name,
        target=choice.target,
        facts={"point": point.to_json(), "measurement": figures, "package_key": packaging.package_key(base, choice)},
        lineage={"base_fingerprint": base.fingerprint, **data.lineage(base), "builders": packaging.builder_versions()},
    )
    registered_model = naming.package_model(base.name, choice.target)
    version = publish(
        f"package {base.name} {choice.target}",
        folder,
        manifest,
        registered_model,
        base,
        {"shape": str(choice.shape), "quantization": choice.quantization, **parameters()["package"]},
        {key: value for key, value in point.to_json().items() if isinstance(value, float)},
        alias=alias,
    )
    return Released(choice.target, registered_model, version, alias, point, choice)


@task
def push(base: Declared) -> None:
    """Send data, selection and supernet to the DVC remote."""
    data.push(base)


def publish(
    name: str,
    folder: Path,
    manifest: Manifest,
    registered_model: str,
    base: Declared,
    params: dict[str, Any],
    metrics: dict[str, float],
    curve: dict[str, Any] | None = None,
    *,
    alias: str = PRODUCTION,
) -> str:
    """Publish under a run that carries the lineage, unless these very bytes are published already; returns the version."""
    registry = tracking.store()
    known = registry.published(registered_model, manifest, alias)
    if known is not None:
        return known.version
    with tracking.run(name, tracking.facts_of(base), params) as run:
        run.metrics(metrics)
        if curve:
            run.curve(curve)
        tags = {f"amoeba.{key}": str(params[key]) for key in ("shape", "quantization") if key in params}
        version = registry.publish(
            folder, manifest, registered_model=registered_model, alias=alias, run_id=run.run_id, tags=tags
        )
        return version.version
