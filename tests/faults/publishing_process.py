"""A process that forks one publishing process per line of its input: each opens the registry anew, and may be killed anywhere.

What is asked of the disk and what is asked of MLflow are steps.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mlflow.store.model_registry.sqlalchemy_store
import mlflow.store.tracking.sqlalchemy_store  # noqa: F401  what a child needs is imported once, and no database opened
from faults.forking import before_steps, kill_at, serve
from mlflow.tracking import MlflowClient

from registry import leftovers
from registry.manifest import Manifest, read_manifest
from registry.promotions import PREVIOUS, PRODUCTION, read
from registry.store import Store

CALLS = (
    "create_model_version",
    "create_registered_model",
    "create_run",
    "get_registered_model",
    "log_artifact",
    "search_model_versions",
    "set_registered_model_alias",
    "set_tag",
    "set_terminated",
)
"""What MLflow is asked for on the way of a publication."""


@dataclass(frozen=True)
class Ask:
    """One thing done to the registry in `folder` with the artifact in `artifact`."""

    verb: str
    folder: str
    name: str
    artifact: str = ""
    target: str = PRODUCTION
    kill_at: int | None = None
    years: float = 0
    """That this process's clock is ahead."""
    user: int | None = None
    again: str = ""
    """The verb that `check_again` does once more."""
    to: str = ""
    """An empty folder to pull into."""


def store_in(folder: Path) -> Store:
    return Store(f"sqlite:///{folder}/mlflow.db", str(folder / "artifacts"))


def manifest_of(artifact: Path, name: str) -> Manifest:
    model, _, target = name.partition("--")
    return Manifest.of(artifact, kind="package", model=model, target=target, facts={}, lineage={})


def publish(store: Store, ask: Ask) -> None:
    artifact = Path(ask.artifact)
    store.publish(artifact, manifest_of(artifact, ask.name), registered_model=ask.name, alias=ask.target)


def promote(store: Store, ask: Ask) -> None:
    store.promote(store.resolve(ask.name, "candidate"), reason="promoted")


def roll_back(store: Store, ask: Ask) -> None:
    store.roll_back(ask.name, reason="rolled back")


def check_reader(store: Store, ask: Ask) -> None:
    """What a device pulls is an artifact that is whole, and is the production one by name."""
    to = Path(ask.to, "device")
    assert store.pull(ask.name, to) == store.manifest(store.resolve(ask.name))
    read_manifest(to).verify(to)


def check_again(store: Store, ask: Ask) -> None:
    """A reader now, the same once more, and a reader then; nothing is left."""
    check_reader(store, ask)
    Path(ask.to, "device").rename(Path(ask.to, "before"))
    VERBS[ask.again](store, ask)
    check_ended(store, ask)
    check_reader(store, ask)


def check_ended(store: Store, ask: Ask) -> None:
    """Every version is whole, aliases agree with the trail, the trail is a chain, and nothing is left but what `gc` removes."""
    trail = read(store, ask.name)
    assert store.aliases(ask.name) == trail.aliases()
    for alias in {record.alias for record in trail.records}:
        chain = [record for record in reversed(trail.records) if record.alias == alias]
        assert [one.before for one in chain] == [None, *(one.version for one in chain[:-1])], chain
    digests = [store.manifest(version).digest for version in store.versions(ask.name)]
    assert len(set(digests)) == len(digests)
    assert store.resolve(ask.name, PREVIOUS).version != store.resolve(ask.name).version
    for one in leftovers.leftovers(store, 0):
        leftovers.remove(store, one)
    assert leftovers.leftovers(store, 0) == ()
    for version in store.versions(ask.name):
        store.pull(ask.name, Path(ask.to, version.version), version.version)


VERBS: dict[str, Callable[[Store, Ask], None]] = {
    found.__name__: found for found in (publish, promote, roll_back, check_reader, check_again)
}


def run(line: str) -> None:
    ask = Ask(**json.loads(line))
    if ask.user is not None:
        os.setuid(ask.user)
    if ask.years:
        ordinary = time.time
        time.time = lambda: ordinary() + ask.years * 365 * 86400
    store = store_in(Path(ask.folder))
    if ask.kill_at is not None:
        _count_calls(kill_at(ask.kill_at))
    VERBS[ask.verb](store, ask)


def _count_calls(act: Callable[[int, str], None]) -> None:
    told = before_steps(act)
    for name in CALLS:
        setattr(MlflowClient, name, told(name, getattr(MlflowClient, name)))


if __name__ == "__main__":
    serve(run)
