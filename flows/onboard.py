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
from components.progress import say
from flows import data, measuring, showing, tracking
from flows.bases import Declared, check_profile, declare, parameters
from flows.choosing import Choice
from flows.package import Released, build, release
from flows.publishing import publish
from flows.settings import settings
from flows.space import ensure_space
from flows.trouble import reason
from registry import naming
from registry.manifest import Manifest
from registry.store import PRODUCTION


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
    supernet_version = register_supernet(base, origin.licence)
    jobs = {target: build.submit(base, origin.folder, target) for target in wanted}
    full = measure_full_model(base, origin.folder)
    # All are built before the first is measured: a builder beside it would double an artifact's time.
    built = {target: job.result(raise_on_failure=False) for target, job in jobs.items()}
    released, failed = [], {}
    for target, choice in built.items():
        if not isinstance(choice, Choice):
            failed[target] = reason(choice)
            continue
        try:
            released.append(release(base, choice, PRODUCTION))
        except Exception as error:  # one target's trouble is reported, and the others go on
            failed[target] = reason(error)
    push(base)
    show(base.name, full)
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
def register_supernet(base: Declared, licence: str) -> str:
    """Publish the supernet as a version of the base's registered model, with its curve; returns the version."""
    folder = base.artifacts / "supernet"
    facts = json.loads((folder / "supernet.json").read_text())
    manifest = Manifest.of(
        folder,
        kind="supernet",
        model=base.name,
        target=None,
        facts={"validation_perplexity": facts["validation_perplexity"]},
        lineage=tracking.lineage_of(base, licence),
    )
    return publish(
        f"supernet {base.name}",
        folder,
        manifest,
        naming.supernet_model(base.name),
        base,
        parameters()["profiles"][base.profile],
        PRODUCTION,
        {f"validation_perplexity.{shape}": value for shape, value in facts["validation_perplexity"].items()},
        json.loads((folder / "curve.json").read_text()),
    )


@task
def measure_full_model(base: Declared, base_folder: Path) -> dict[str, Any]:
    """Quality of the full float model, which every artifact is compared with."""
    return measuring.reference(base, base_folder)


@task
def show(model: str, full: dict[str, Any]) -> None:
    """Keep the full model's figures beside its supernet, and write the report: a page, MLflow, Prefect, and for DVC.

    What was released stays released where a report cannot be made.
    """
    try:
        showing.show(model, full, settings().home / "reports" / model)
    except Exception as error:
        say(f"no report was written: {reason(error)}; `amoeba report {model}` tries again")


@task
def push(base: Declared) -> None:
    """Send data, selection and supernet to the DVC remote."""
    data.push(base)
