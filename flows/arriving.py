"""A base has arrived: onboard it, unless this very revision was onboarded before, and one at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Failed

from components.base import Base
from components.progress import say
from flows import metrics, onboarding_run, tracking
from flows.bases import check_name, check_profile, entries
from flows.onboard import PUSH, Outcome, onboard
from flows.onboarding_lock import one_at_a_time
from flows.serving import REFUSED
from flows.sources import resolved
from flows.steps import told
from registry import naming
from registry.errors import OF_ONE_VERSION, NotFoundError
from registry.store import CANDIDATE, PRODUCTION, Store, Version


@dataclass(frozen=True)
class Arrived:
    """What became of an arrival: onboarded, or known already."""

    base: str
    """Its name in the registry."""
    fingerprint: str
    outcome: Outcome | None
    """None where everything that was asked for is published."""


@flow(name="arrive")
@told
def arrive(source: str, profile: str = "quick", targets: Sequence[str] = ()) -> Arrived | State[Any]:
    """Onboard a base's revision once: the same bytes, profile and targets a second time start nothing.

    What is no base, and will be none at another try, ends as Refused. Failed where another try may bring what is lacking; all
    other trouble raises.
    """
    try:
        with metrics.failing_onboarding():
            check_profile(profile)
            base = resolved(source)
            check_name(base)
    except ValueError as error:
        say(f"{source} is refused: {error}")
        return Failed(name=REFUSED, message=str(error))
    with one_at_a_time(base.name, base.fingerprint), one_at_a_time(base.name):
        registry = tracking.store()
        for name in (*also_known_as(base, profile), base.name):
            missing = lacking(registry, name, base.fingerprint, profile, targets)
            if missing == () and onboarding_run.came_to_an_end(name, base.fingerprint, profile):
                say(f"{source} is onboarded already, as {name} ({base.fingerprint[:12]})")
                return Arrived(name, base.fingerprint, None)
        outcome = onboard(base.source, profile, missing or targets)
    for what, reason in outcome.failed.items():
        say(f"{base.name}: {what} failed: {reason}")
    again = {what: reason for what, reason in outcome.failed.items() if what == PUSH or what in outcome.passing}
    if again:
        return Failed(message="; ".join(f"{what}: {reason}" for what, reason in again.items()))
    return Arrived(base.name, base.fingerprint, outcome)


def also_known_as(base: Base, profile: str) -> tuple[str, ...]:
    """Other names that the same bytes were onboarded under."""
    bases = entries().get("bases") or {}
    same = (base.fingerprint, profile)
    return tuple(
        name for name, facts in bases.items() if (facts["fingerprint"], facts["profile"]) == same and name != base.name
    )


def lacking(
    registry: Store, name: str, fingerprint: str, profile: str, targets: Sequence[str]
) -> tuple[str, ...] | None:
    """Targets for which no package of this revision was released, of those asked for or of all; None without a supernet."""
    import edge_targets

    facts = {"base_fingerprint": fingerprint, "profile": profile}
    if not _holds(registry, naming.supernet_model(name), facts):
        return None
    wanted = targets or edge_targets.names()
    return tuple(target for target in wanted if not _holds(registry, naming.package_model(name, target), facts))


def _holds(registry: Store, registered_model: str, facts: dict[str, str]) -> bool:
    """Whether a version made from these was released: one whose publisher was killed before that is in no production."""
    try:
        versions = registry.versions(registered_model)
    except NotFoundError:
        return False
    released = {
        record.version for record in registry.history(registered_model) if record.alias in (PRODUCTION, CANDIDATE)
    }
    return any(
        version.version in released and facts.items() <= _lineage(registry, version).items() for version in versions
    )


def _lineage(registry: Store, version: Version) -> Mapping[str, Any]:
    """Empty for a version that is not ours, or that no device would take."""
    try:
        return registry.manifest(version).lineage
    except OF_ONE_VERSION:
        return {}
