"""Which published artifact a machine should have: all of a base's are looked at, and every one that is left is told why."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import edge_targets
from components.frontier import Point
from edge_targets._device.machine import Machine
from flows.explored import FrontierError, alias_of, frontier_of
from flows.measured import point_of
from registry import naming
from registry.errors import OF_ONE_VERSION, DamagedError, NotFoundError, RegistryError
from registry.promotions import Promotion
from registry.store import PRODUCTION, Store, Version

_log = logging.getLogger(__name__)
_UNTOLD = (*OF_ONE_VERSION, ValueError)
"""What keeps one version from being offered, and no other."""


@dataclass(frozen=True)
class Limits:
    """What an artifact must keep to; None is no limit."""

    max_latency_ms: float | None = None
    """Milliseconds a token."""
    max_memory_mb: float | None = None
    """KV cache included."""
    min_accuracy: float | None = None
    """A share of the questions, 0 to 1."""

    @property
    def given(self) -> bool:
        """Whether there is any."""
        return self != Limits()

    def __str__(self) -> str:
        said = [f"{self.max_latency_ms:g} ms a token"] if self.max_latency_ms is not None else []
        said += [f"{self.max_memory_mb:g} MB"] if self.max_memory_mb is not None else []
        said += [f"{self.min_accuracy:.1%} accuracy"] if self.min_accuracy is not None else []
        return ", ".join(said) or "no limits"


@dataclass(frozen=True)
class Offer:
    """One published artifact; `left` says why it is not for this machine, empty where it is.

    It has no version where nothing that is promoted can be believed.
    """

    target: str
    version: Version | None
    point: Point | None
    left: str
    promoted: Promotion | None = None
    """The record that it was found by."""

    def __str__(self) -> str:
        return f"{self.target} version {self.version.version}" if self.version else self.target


class NothingSuitsError(RegistryError):
    """No published artifact is for this machine and within the limits; the message says why each was left."""


def best(
    registry: Store,
    base: str,
    machine: Machine | None,
    limits: Limits,
    alias: str = PRODUCTION,
    target: str | None = None,
) -> tuple[Offer, ...]:
    """Published artifacts of a base, the best for a machine first: of most accuracy, then the fastest.

    Without a machine only limits count; with a target only its artifacts are looked at. Where a limit is given, every version
    on a target's published frontier is offered too; without one, what has the alias is meant.

    Raises NothingSuitsError where the first is not for this machine or not within the limits.
    """
    found = sorted(_offers(registry, base, machine, limits, alias, target), key=_rank)
    if not found:
        known = ", ".join(name for name in registry.models() if "--" in name) or "none"
        raise NothingSuitsError(f"no package of {base} is published as {alias}; packages are {known}")
    if found[0].left:
        reasons = "; ".join(f"{offer.target}: {offer.left}" for offer in found)
        raise NothingSuitsError(f"no published package of {base} suits this machine within {limits}: {reasons}")
    return tuple(found)


def check_published(registry: Store, base: str, target: str) -> None:
    """Raise NotFoundError, with what makes it, where a base that is there has no package for a target that is known."""
    published = {target for model, target in map(naming.base_and_target, registry.models()) if model == base}
    if published and target not in published and target in edge_targets.names():
        others = ", ".join(sorted(published - {""})) or "none yet"
        raise NotFoundError(
            f"nothing of {base} is published for {target}; targets with a package are {others}; "
            f"`amoeba onboard {base} --target {target}` makes it"
        )


def why_left(offer: Offer, taken: Offer) -> str:
    """Why a machine is not given an offer and is given the one that came first."""
    alike = _rank(offer)[:-1] == _rank(taken)[:-1]
    return offer.left or ("it measured the same" if alike else "it measured worse")


def _offers(
    registry: Store, base: str, machine: Machine | None, limits: Limits, alias: str, only: str | None
) -> Iterator[Offer]:
    for name in registry.models():
        model, target = naming.base_and_target(name)
        if model != base or not target or target != (only or target):
            continue
        try:
            version, record = registry.released(naming.package_model(base, target), alias)
        except NotFoundError:
            continue
        except _UNTOLD as error:
            yield Offer(target, None, None, str(error))
            continue
        for one, promoted in ((version, record), *(_frontier(registry, version) if limits.given else ())):
            point, left = _point_or_why_not(registry, target, one, machine, limits)
            yield Offer(target, one, point, left, promoted)


def _frontier(registry: Store, version: Version) -> Iterator[tuple[Version, Promotion | None]]:
    """The other versions of the frontier beside one; what cannot be read or trusted is left out and told.

    Nobody signs a frontier. So where signatures are wanted, a version is of it only as long as its shape and quantization, which
    it was promoted under, are promoted to it.
    """
    try:
        explored = frontier_of(registry, version)
    except (FrontierError, DamagedError) as error:
        _log.warning("%s: its frontier is left out: %s", version.registered_model, error)
        return
    for member in explored.members if explored else ():
        if member.version == version.version:
            continue
        kind = alias_of(member.point.shape, member.point.quantization)
        alias = kind if registry.trust.required else member.version
        try:
            one, record = registry.released(version.registered_model, alias)
            if one.version != member.version:
                raise NotFoundError(f"{alias} is version {one.version} by now")
            yield one, record
        except (NotFoundError, *OF_ONE_VERSION) as error:
            _log.warning(
                "%s version %s of the frontier is left out: %s", version.registered_model, member.version, error
            )


def _point_or_why_not(
    registry: Store, target: str, version: Version, machine: Machine | None, limits: Limits
) -> tuple[Point | None, str]:
    """A version's point, and why it is left, empty where it is not."""
    if target not in edge_targets.names():
        return None, "this version of amoeba knows no such target"
    try:
        point = point_of(registry, version)
    except _UNTOLD as error:
        return None, str(error)
    if point is None:
        return None, "its manifest has no measured point"
    unsuited = edge_targets.load(target).suits(machine) if machine is not None else None
    too_large = None
    if machine is not None and machine.memory_mb and point.memory_mb > machine.memory_mb:
        too_large = f"it takes {point.memory_mb:.0f} MB, here are {machine.memory_mb:.0f}"
    return point, unsuited or too_large or beyond(point, limits) or ""


def beyond(point: Point, limits: Limits) -> str | None:
    """Which of the limits a point is over or under; None where it keeps to all."""
    if limits.max_latency_ms is not None and point.tpot_ms > limits.max_latency_ms:
        return f"{point.tpot_ms:.1f} ms a token ({point.measured_on}), over {limits.max_latency_ms:g}"
    if limits.max_memory_mb is not None and point.memory_mb > limits.max_memory_mb:
        return f"{point.memory_mb:.0f} MB ({point.measured_on}), over {limits.max_memory_mb:g}"
    if limits.min_accuracy is None:
        return None
    if point.accuracy is None:
        return "its accuracy was never measured"
    if point.accuracy < limits.min_accuracy:
        return f"accuracy {point.accuracy:.1%}, under {limits.min_accuracy:.1%}"
    return None


def _rank(offer: Offer) -> tuple[bool, float, float, str]:
    point = offer.point
    quality = -point.accuracy if point is not None and point.accuracy is not None else 0.0
    return bool(offer.left), quality, point.tpot_ms if point is not None else 0.0, offer.target
