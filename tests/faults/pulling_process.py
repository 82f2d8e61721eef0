"""The pulling processes: each line is a `Pull`."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from faults.forking import Forks, before_steps, kill_at, serve

from registry.manifest import Manifest
from registry.patience import Patience
from registry.placing import roll_back
from registry.server import MANIFEST_TAG, Version
from registry.shelf import Shelf
from registry.store import Store


@dataclass(frozen=True)
class Pull:
    """One pull, and where it ends: before its `kill_at`-th step, when there are so many."""

    name: str
    source: str
    digest: str
    to: str
    shelf: str | None = None
    kill_at: int | None = None
    user: int | None = None
    rollback: bool = False


class Pointing(Store):
    """A registry whose every name is one version: what is told of it is true, only not kept in a database."""

    def __init__(self, version: Version, patience: Patience | None = None) -> None:
        super().__init__("sqlite:////nowhere/mlflow.db")
        self._version = version
        self.patience = patience or Patience(
            tries=8, first_pause_s=0.001, most_pause_s=0.01, most_asked_pause_s=0.02, read_s=10, forward_bytes=1000
        )

    def aliases(self, name: str) -> dict[str, str]:
        return {"production": self._version.version}

    def versions_of(self, name: str) -> tuple[Version, ...]:
        return ()

    def version(self, name: str, number: str) -> Version:
        return self._version


def pull(asked: Pull, patience: Patience | None = None) -> Manifest:
    """As `amoeba pull` does it."""
    if asked.rollback:
        return roll_back(Path(asked.to), asked.name)
    version = Version(asked.name, "1", (), {MANIFEST_TAG: asked.digest}, "run", asked.source)
    shelf = Shelf(Path(asked.shelf), 10**9, patience_s=60) if asked.shelf else None
    return Pointing(version, patience).pull(asked.name, Path(asked.to), shelf=shelf)


def run(line: str) -> None:
    asked = Pull(**json.loads(line))
    if asked.user is not None:
        os.setuid(asked.user)
    if asked.kill_at is not None:
        before_steps(kill_at(asked.kill_at))
    pull(asked)


def pullers(warm: Pull, said: Path) -> Forks:
    """The process of this module; its first pull is `warm`."""
    return Forks("pulling_process", said, json.dumps(asdict(warm)))


if __name__ == "__main__":
    first = Pull(**json.loads(sys.argv[1]))
    pull(replace(first, shelf=first.to + "-shelf"))
    serve(run)
