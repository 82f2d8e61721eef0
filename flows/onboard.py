"""The main job: a base model in, a verified artifact out for every target.

    data -> selection -> one-time fine-tune -> register -> one job a target: choose, extract, package -> measure, publish

Take the decorators away and it still works. Tasks hand names and small records to each other, never tensors; what is
large stays in folders named by content, so a second run finds every step done, and one after a kill goes on from the last
that was.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from prefect import flow

import edge_targets
from components import lifeline, messages
from components.base import Base
from components.progress import say
from components.stages import STAGES
from flows import data, lost, lost_runs, measuring, metrics, onboarding_run, room, showing, tracking
from flows.bases import Declared, check_profile, declare, parameters
from flows.numbers import check_numbers
from flows.onboarding_lock import one_at_a_time
from flows.package import Released, build, release
from flows.publishing import publish
from flows.retrying import may_pass
from flows.runners import outcome_of, task_runner
from flows.settings import settings
from flows.sources import resolved
from flows.space import ensure_space
from flows.steps import step, told
from flows.trouble import reason
from registry import naming
from registry.manifest import Manifest
from registry.store import PRODUCTION

FULL_MODEL, PUSH = "full model", "push"
"""Steps that fail by themselves, beside targets."""


@dataclass(frozen=True)
class Outcome:
    """What an onboarding released, against the full model, and what failed with the reason: a target, or a step's name."""

    base: str
    supernet_version: str
    full_perplexity: float | None
    """None where measuring the full model failed."""
    full_accuracy: float | None
    released: tuple[Released, ...]
    failed: dict[str, str]
    passing: tuple[str, ...] = ()
    """Of what failed, what another try may help."""


@flow(name="onboard", task_runner=task_runner())
@told
def onboard(source: str, profile: str = "quick", targets: Sequence[str] = ()) -> Outcome:
    """Onboard a base for `targets`, or for every target there is. What fails once the supernet is there does not lose the rest."""
    check_profile(profile)
    check_numbers(profile)
    wanted = tuple(targets) or edge_targets.names()
    for target in wanted:
        edge_targets.load(target)
    lifeline.work_for_me(str(settings().root))
    lost.clean()
    lost_runs.end_those_of_killed_processes()
    with metrics.failing_onboarding():
        origin = find_base(source)
    with messages.telling(base=origin.name), one_at_a_time(origin.name):
        with onboarding_run.recorded(origin, profile, wanted) as ending:
            outcome = _onboard(origin, profile, wanted)
            ending.outcome = "incomplete" if outcome.failed else "complete"
        return outcome


def _onboard(origin: Base, profile: str, targets: Sequence[str]) -> Outcome:
    ensure_space(settings().root, origin.weights, len(targets))
    base = declare(origin, profile)
    for stage in STAGES:
        reproduce(stage, base)
    supernet_version = register_supernet(base, origin.licence)
    failed: dict[str, Exception] = {}
    full: dict[str, Any] | None = None
    released: list[Released] = []
    jobs = {target: build.submit(base, origin.folder, target) for target in targets}
    with _noted(failed, FULL_MODEL):
        full = measure_full_model(base, origin.folder)
    # All are built before the first is measured: a builder beside it would double an artifact's time.
    choices = {target: outcome_of(job, partial(build, base, origin.folder, target)) for target, job in jobs.items()}
    for target, choice in choices.items():
        with _noted(failed, target):
            if isinstance(choice, Exception):
                raise choice
            released.append(release(base, choice, PRODUCTION))
    with _noted(failed, PUSH):
        push(base)
    if full is not None:
        show(base.name, full)
    room.keep_within_budget()
    return Outcome(
        base.name,
        supernet_version,
        full["perplexity"]["value"] if full else None,
        full["accuracy"]["value"] if full else None,
        tuple(released),
        {what: reason(error) for what, error in failed.items()},
        tuple(what for what, error in failed.items() if may_pass(error)),
    )


@contextmanager
def _noted(failed: dict[str, Exception], what: str) -> Iterator[None]:
    """What goes wrong is noted under `what`, and the rest goes on."""
    try:
        yield
    except Exception as error:
        failed[what] = error


@step("find_base")
def find_base(source: str) -> Base:
    """The base's local folder and fingerprint."""
    return resolved(source)


@step("{stage}")
def reproduce(stage: str, base: Declared) -> None:
    """Bring one DVC stage up to date."""
    data.reproduce(stage, base)


@step("register_supernet")
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


@step("measure_full_model")
def measure_full_model(base: Declared, base_folder: Path) -> dict[str, Any]:
    """Quality of the full float model, which every artifact is compared with."""
    return measuring.reference(base, base_folder)


@step("show")
def show(model: str, full: dict[str, Any]) -> None:
    """Keep the full model's figures beside its supernet, and write the report: a page, MLflow, Prefect, and for DVC.

    What was released stays released where a report cannot be made.
    """
    try:
        showing.show(model, full, settings().home / "reports" / model)
    except Exception as error:
        say(f"no report was written: {reason(error)}; `amoeba report {model}` tries again")


@step("push")
def push(base: Declared) -> None:
    """Send data, selection and supernet to the DVC remote."""
    data.push(base)
