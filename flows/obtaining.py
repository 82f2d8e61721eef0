"""The version that a device is to pull: of what is published, or built for it from the supernet when it is asked to be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import edge_targets
from components.progress import say
from edge_targets._device.machine import Machine
from flows.finding import Limits, NothingSuitsError, Offer, best, beyond
from registry.errors import RegistryError
from registry.store import CANDIDATE, PRODUCTION, Store

if TYPE_CHECKING:
    from edge_targets._target import Budget
    from flows.choosing import Choice
    from registry.promotions import Promotion


@dataclass(frozen=True)
class Obtained:
    """What is to be pulled, and what else was looked at."""

    target: str
    version: str
    promoted: Promotion | None = None
    """The record that the version was found by."""
    offers: tuple[Offer, ...] = ()
    built: bool = False


def obtain(
    registry: Store,
    model: str,
    target: str | None,
    limits: Limits,
    machine: Machine | None,
    *,
    alias: str = PRODUCTION,
    build: bool = False,
) -> Obtained:
    """The best published artifact for a machine within limits; where none is, one that is built for them, if `build`.

    Raises NothingSuitsError with what the supernet is predicted to give, or why it cannot be asked.
    """
    try:
        offers = best(registry, model, machine, limits, alias, target)
    except NothingSuitsError as nothing:
        promised = _derivable(model, target, limits, machine, nothing)
        if not build:
            raise NothingSuitsError(
                f"{nothing}. The supernet has one: {promised.target} {promised.shape} {promised.quantization} is predicted to "
                "meet the limits; add --build to have it built, verified, published and pulled"
            ) from None
        return _built(model, promised.target, limits, here=machine is not None)
    first = offers[0]
    assert first.version is not None, "only what is left has none"
    return Obtained(first.target, first.version.version, first.promoted, offers)


def _built(model: str, target: str, limits: Limits, *, here: bool) -> Obtained:
    """Built, and measured: limits for this machine must hold here; those for a device were held against its prediction.

    Raises NothingSuitsError where one does not hold that must.
    """
    from flows.own_server import serve_this_command

    serve_this_command()
    from flows.package import package

    released = package(model, target, _budget(limits), CANDIDATE, here=here)
    built = f"{target} was built and published as {CANDIDATE}, version {released.version}"
    over = beyond(released.point, limits if here else Limits(min_accuracy=limits.min_accuracy))
    if over is not None:
        raise NothingSuitsError(f"{built}, but {over}; allow more time or memory, or less accuracy")
    over = beyond(released.point, limits)
    if over is not None:
        say(f"{built}; {over}, while its device is predicted to keep to it")
    return Obtained(target, released.version, built=True)


def _derivable(
    model: str, target: str | None, limits: Limits, machine: Machine | None, nothing: NothingSuitsError
) -> Choice:
    """The best that the supernet is predicted to give for a target that suits; raises NothingSuitsError with why none.

    Limits for a machine are this one's, and met by what ran here where anything did; without one they are the device's.
    """
    wanted = (target,) if target else edge_targets.names()
    suited = [one for one in wanted if machine is None or edge_targets.load(one).suits(machine) is None]
    if not suited:
        raise nothing
    try:
        from components.pinned import UnavailableError
        from flows import calibrating
        from flows.choosing import choose_for
        from flows.data import StageError
        from flows.onboarded import recorded
        from flows.settings import WorkspaceError
        from flows.work import JobError
    except ModuleNotFoundError as error:
        raise NothingSuitsError(
            f"{nothing}. Nothing is built here: {error.name} is missing; ask who runs the builder for one"
        ) from nothing
    choices, reasons = [], []
    try:
        base, origin = recorded(model)
        for one in suited:
            try:
                calibrations = calibrating.kept(base, one) if machine is not None else None
                choices.append(choose_for(base, origin.folder, one, _budget(limits), calibrations))
            except JobError as error:
                reasons.append(str(error))
    except (WorkspaceError, UnavailableError, RegistryError, StageError, ValueError, OSError) as error:
        reasons.append(str(error))
    if choices:
        return min(choices, key=lambda choice: choice.predicted.perplexity)
    raise NothingSuitsError(f"{nothing}. Nor can the supernet: {'; '.join(reasons)}") from nothing


def _budget(limits: Limits) -> Budget:
    from edge_targets._target import Budget

    return Budget(limits.max_latency_ms, limits.max_memory_mb)
