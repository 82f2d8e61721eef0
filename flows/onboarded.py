"""A base that was onboarded, for whoever builds from what was made of it: held still, and no other than what is recorded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from components.base import Base
from flows import data
from flows.bases import Declared, declared
from flows.onboarding_lock import one_at_a_time
from flows.sources import resolved


@contextmanager
def onboarded(name: str) -> Iterator[tuple[Declared, Base]]:
    """What `recorded` gives, and raises; nobody onboards the base meanwhile."""
    with one_at_a_time(declared(name).name):
        yield recorded(name)


def recorded(name: str) -> tuple[Declared, Base]:
    """What `bases.yaml` says of the base, and its files.

    What is published carries the base's fingerprint and the revisions of `dvc.lock`, so the files that it is built from must be
    those. Raises UnknownNameError for a base that is not declared, BaseError where its files are others by now, StageError where
    its data or its supernet are.
    """
    base = declared(name)
    for stage in ("data", "supernet"):
        data.check(stage, base)
    origin = resolved(base.source)
    origin.check_unchanged(base.fingerprint)
    return base, origin
