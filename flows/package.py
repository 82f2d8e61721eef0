"""One target's job: choose a shape and quantization, build the package, measure it, and publish what holds.

A choice is made on predictions and confirmed on the package itself. Where the package is not what was predicted, the next
best candidate is built, and the table of what was considered says why.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import flow

import edge_targets
from components.frontier import Point
from edge_targets._target import Budget
from flows import calibrating, choosing, considered, measuring, packaging, tracking
from flows.bases import Declared
from flows.choosing import Choice
from flows.onboarded import onboarded
from flows.publishing import publish
from flows.settings import settings
from flows.space import ensure_space
from flows.steps import step, told
from flows.work import JobError
from registry import bom, naming
from registry.manifest import Manifest
from registry.store import CANDIDATE

_MOST_BUILDS = 3
"""Packages built for one target before it is given up: each takes minutes, and the fourth would hardly differ."""


@dataclass(frozen=True)
class Released:
    """One published artifact."""

    target: str
    registered_model: str
    version: str
    alias: str
    point: Point
    choice: Choice


@flow(name="package")
@told
def package(
    model: str, target: str, budget: Budget | None = None, alias: str = CANDIDATE, *, here: bool = False
) -> Released:
    """Build, measure and publish the best subnet of an onboarded base for a target, within a budget of one's own.

    With `here` the budget is this machine's, as far as anything ran on it that says what the rest would take.

    Raises JobError where nothing fits, and what `onboarded` raises.
    """
    edge_targets.load(target)
    with onboarded(model) as (base, origin):
        ensure_space(settings().root, origin.weights, 1)
        return release(base, build(base, origin.folder, target, budget, here=here), alias)


@step("build {target}")
def build(
    base: Declared, base_folder: Path, target: str, budget: Budget | None = None, *, here: bool = False
) -> Choice:
    """Choose, extract, quantize and package for one target."""
    choice = choosing.choose_for(base, base_folder, target, budget, calibrating.kept(base, target) if here else None)
    packaging.package_for(base, choice)
    return choice


@step("release {choice.target}")
def release(base: Declared, choice: Choice, alias: str) -> Released:
    """Verify and measure a package, one at a time so that nothing disturbs the clock, and publish it.

    What only its device runs is published as a candidate: production is what was measured.
    """
    choice, point, figures = confirmed(base, choice)
    return publish_package(base, choice, point, figures, CANDIDATE if point.measured_on == "predicted" else alias)


def publish_package(base: Declared, choice: Choice, point: Point, figures: dict[str, Any], alias: str) -> Released:
    """Publish a choice's package with what was found of it."""
    folder = packaging.package_for(base, choice)
    manifest = Manifest.of(
        folder,
        kind="package",
        model=base.name,
        target=choice.target,
        facts={"point": point.to_json(), "measurement": figures, "package_key": packaging.package_key(base, choice)},
        lineage={
            **tracking.lineage_of(base, packaging.licence_of(folder)),
            "builders": packaging.builder_versions(),
            "subnet_sha256": bom.subnet_of((folder / bom.BOM_FILE).read_bytes()),
        },
    )
    registered_model = naming.package_model(base.name, choice.target)
    version = publish(
        f"package {base.name} {choice.target}",
        folder,
        manifest,
        registered_model,
        base,
        {
            "shape": str(choice.shape),
            "quantization": choice.quantization,
            "context_length": choice.context_length,
        },
        alias,
        {key: value for key, value in point.to_json().items() if isinstance(value, float)},
    )
    registry = tracking.store()
    considered.keep(registry, registry.resolve(registered_model, version), choice)
    return Released(choice.target, registered_model, version, alias, point, choice)


def confirmed(base: Declared, choice: Choice) -> tuple[Choice, Point, dict[str, Any]]:
    """The first of the candidates, best first, whose package is what was predicted, its point and its figures.

    Raises JobError where the first few are not, with what was wrong with each.
    """
    for _ in range(_MOST_BUILDS):
        try:
            point, figures = measuring.examine(base, choice)
            refusal = measuring.refusal(choice, packaging.package_for(base, choice), figures)
        except measuring.NoNumberError as error:
            refusal = str(error)
        if refusal is None:
            return choice, point, figures
        choice = choosing.next_best(choice, refusal)
    tried = "; ".join(f"{one.candidate.shape} {one.candidate.quantization} {one.reason}" for one in choice.built)
    raise JobError(f"{choice.target}: nothing was published: {tried}")
