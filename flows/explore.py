"""A target's frontier: the candidates worth most are built and measured one after another, and what is undominated is published.

Which is next is decided anew after every measurement; what is likely to be is built together, before the clock runs. What was
measured stays in the workspace's cache, so more points only add to the frontier, and a search that was killed goes on where it was.
"""

from __future__ import annotations

import math
from functools import partial

from prefect import flow, task

import edge_targets
from components.exploration import Forecast, Option
from components.progress import say
from flows import calibrating, packaging, tracking
from flows.bases import Declared, declared
from flows.choosing import Choice
from flows.explored import KIND, Explored, alias_of
from flows.exploring import Built, Ground, Search, ground
from flows.frontier_document import document
from flows.onboarded import onboarded
from flows.package import publish_package
from flows.retrying import RETRIES
from flows.runners import outcome_of, task_runner
from flows.settings import settings
from flows.space import ensure_space
from flows.steps import step, told
from flows.work import JobError, LostWorkerError
from registry import naming
from registry.errors import NotFoundError
from registry.store import PRODUCTION, Store, Version


@flow(name="explore", task_runner=task_runner())
@told
def explore(model: str, target: str, points: int = 8) -> Explored:
    """Measure `points` candidates for a target, those of earlier runs included, and publish the frontier among them.

    Raises JobError for a target whose packages cannot run here, where nothing is in production yet, and where no package holds;
    and what `onboarded` raises.
    """
    why = edge_targets.load(target).cannot_run_here
    if why is not None:
        raise JobError(f"a frontier is measured, and packages for {target} run on their device only: {why}")
    registry = tracking.store()
    _production(registry, declared(model).name, target)
    with onboarded(model) as (base, origin):
        ensure_space(settings().root, origin.weights, points)
        return publish_frontier(registry, measured(ground(base, origin.folder, target), points))


def measured(start: Ground, points: int) -> Search:
    """The search after `points` candidates, or as many as there are."""
    search = Search.of(start)
    if search.built:
        say(f"{start.target}: {len(search.built)} candidates are measured already")
    built: set[Option] = set()
    while search.tried < points and (best := search.exploration.next()) is not None:
        if best.option not in built:
            built |= build_together(search, min(points - search.tried, settings().workers))
        say(f"{start.target}: {search.tried + 1}/{points}, {_told(best)}")
        search = _with(search, best.option)
    if search.built:
        calibrating.keep(start.base, start.target, search.exploration.calibrations)
    return search


def build_together(search: Search, most: int) -> set[Option]:
    """Build what is likely to be measured next, at once; a build that fails is told of when its turn comes."""
    options = [forecast.option for forecast in search.exploration.likely(most)]
    given = [(search.ground.base, search.ground.choice(option)) for option in options]
    jobs = [build_candidate.submit(*one) for one in given]
    for job, one in zip(jobs, given, strict=True):
        outcome_of(job, partial(build_candidate, *one))
    return set(options)


@step("build_candidate {choice.target}")
def build_candidate(base: Declared, choice: Choice) -> None:
    """Have one candidate's package in the cache."""
    packaging.package_for(base, choice)


def publish_frontier(registry: Store, search: Search) -> Explored:
    """Publish every member as a version, and the frontier beside each of them and what is in production."""
    if not search.members:
        refused = [f"{one.option.name} {one.refused}" for one in search.built]
        refused += [f"{option.name} could not be built: {reason}" for option, reason in search.failed.items()]
        raise JobError(f"{search.ground.target}: no package holds what was predicted of it: {'; '.join(refused)}")
    production = _production(registry, search.ground.base.name, search.ground.target)
    versions = [_published(registry, search.ground.base, one) for one in search.members]
    explored = document(search, [version.version for version in versions])
    content = explored.to_json()
    for version in {version.version: version for version in (production, *versions)}.values():
        if registry.attached(version, KIND) != content:
            registry.attach(version, KIND, content)
    return explored


def _with(search: Search, option: Option) -> Search:
    """The search with one more built and measured, or left for good where it cannot be built.

    Raises LostWorkerError where its process was killed at every try: that says nothing of the candidate.
    """
    build = task(task_run_name=f"measure {option.name}", **RETRIES)(search.ground.build)
    try:
        built = build(option)
    except LostWorkerError:
        raise
    except JobError as error:
        say(f"{option.name}: {error}")
        return search.with_failed(option, str(error))
    if built.refused:
        say(f"{option.name}: {built.refused}")
    return search.with_built(built)


def _production(registry: Store, model: str, target: str) -> Version:
    try:
        return registry.resolve(naming.package_model(model, target), PRODUCTION)
    except NotFoundError as error:
        raise JobError(
            f"a frontier is published beside what is in production, and of {model} for {target} nothing is: "
            f"`amoeba onboard {model} --target {target}` comes first"
        ) from error


def _published(registry: Store, base: Declared, built: Built) -> Version:
    """A version under its shape and quantization."""
    alias = alias_of(built.choice.shape, built.choice.quantization)
    released = publish_package(base, built.choice, built.point, built.figures, alias)
    return registry.resolve(released.registered_model, released.version)


def _told(best: Forecast) -> str:
    cost = best.cost
    return (
        f"{best.option.name}: predicted perplexity {best.perplexity:.1f} (within {math.expm1(best.spread):.0%}), "
        f"{cost.tpot_ms:.1f} ms a token ({cost.machine})"
    )
