"""Promotions by hand, and telling Prefect of them."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import asdict

from flows.tracking import store
from registry import naming, versions
from registry.errors import NotFoundError
from registry.promotions import PREVIOUS, Promotion
from registry.server import Version

EVENT = "amoeba.promoted"


def registered(model: str, target: str | None) -> str:
    """The registered model of a base's packages for a target, or of its supernets; raises RefusedError."""
    return naming.package_model(model, target) if target else naming.check_registered(model)


def promote(
    model: str, target: str | None, version: str, alias: str, reason: str, expected: str | None
) -> tuple[Version, Promotion | None]:
    """The version, and the record of its promotion; no record where the alias was at it already.

    Raises what the registry raises, for a version that no device would take too.
    """
    registry = store()
    chosen = registry.resolve(registered(model, target), version)
    registry.manifest(chosen)
    record = registry.promote(chosen, alias, reason=reason, expected=expected)
    if record is not None:
        announce(record)
    return chosen, record


def roll_back(model: str, target: str | None, reason: str) -> Promotion:
    """The record of it; raises as `promote` does."""
    registry, name = store(), registered(model, target)
    with suppress(NotFoundError):  # which the rollback tells better
        registry.manifest(registry.resolve(name, PREVIOUS))
    record = registry.roll_back(name, reason=reason)
    announce(record)
    return record


def history(model: str, target: str | None) -> tuple[Promotion, ...]:
    """Every promotion, newest first; raises NotFoundError for a model that is not there."""
    registry, name = store(), registered(model, target)
    versions.check_there(registry, name)
    return registry.history(name)


def announce(record: Promotion) -> None:
    """An event on the Prefect server that is set, for automations to act on; nothing where none is."""
    if not os.environ.get("PREFECT_API_URL"):
        return
    from prefect.events import emit_event

    resource = {"prefect.resource.id": f"amoeba.model.{record.model}", "amoeba.alias": record.alias}
    emit_event(EVENT, resource=resource, payload=asdict(record))
