"""What may go wrong while artifacts are published and promoted, each case many times.

After every fault:

1. A device that pulls gets the old artifact whole or the new one whole.
2. The same command, run again without the fault, ends with the new one in production and the old one before it.
3. Aliases agree with the trail, which is a chain; every version is whole; nothing is left that `gc` does not remove.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from faults.forking import Forks
from faults.publishing_process import Ask, manifest_of, store_in
from faults.tally import Run

from registry.promotions import CANDIDATE

NAME = "tiny--x86"
SEED = 7
KILLS_AT_RANDOM = 40
AT_ONCE = 24
ARTIFACTS = {"old": b"old" * 500, "new": b"new" * 500}
NOBODY = 65534


class World:
    """A registry with the old artifact in production, as it was left before each run, and processes that change it."""

    def __init__(self, folder: Path) -> None:
        folder.chmod(0o755)
        self.folder, self.pristine, self.registry = folder, folder / "pristine", folder / "registry"
        self.random = random.Random(SEED)
        for name, content in ARTIFACTS.items():
            self.artifact(name, content)
        self.forks = Forks("publishing_process", folder / "said")
        # MLflow keeps absolute addresses of artifacts, so that the registry is made where it will stand.
        store_in(self.registry).experiment_id()
        self.do(self.publishing("old"))
        shutil.copytree(self.registry, self.pristine)

    def artifact(self, name: str, content: bytes) -> None:
        folder = self.folder / name
        (folder / "texts").mkdir(parents=True)
        (folder / "model.onnx").write_bytes(content)
        (folder / "texts" / "LICENSE").write_bytes(b"A licence.\n")

    def ask(self, verb: str, **how: object) -> Ask:
        return replace(Ask(verb, str(self.registry), NAME), **how)  # type: ignore[arg-type]

    def publishing(self, artifact: str, **how: object) -> Ask:
        return self.ask("publish", artifact=str(self.folder / artifact), **how)

    def reset(self) -> None:
        shutil.rmtree(self.registry)
        shutil.copytree(self.pristine, self.registry)

    def do(self, ask: Ask) -> None:
        """Without a fault."""
        self.forks.start(ask)
        assert self.forks.wait() == [0], self.forks.said()[-2000:]

    def check(self, again: Ask, production: str) -> None:
        """Rules 1, 2 and 3."""
        with tempfile.TemporaryDirectory(dir=self.folder) as to:
            self.do(replace(again, verb="check_again", again=again.verb, to=to))
            assert Path(to, "before", "model.onnx").read_bytes() in ARTIFACTS.values()
            assert Path(to, "device", "model.onnx").read_bytes() == ARTIFACTS[production]


@contextlib.contextmanager
def world() -> Iterator[World]:
    with tempfile.TemporaryDirectory() as folder:
        made = World(Path(folder))
        try:
            yield made
        finally:
            made.forks.close()


def _killed_at_every_step(world: World, ask: Ask, before: Callable[[], None]) -> Iterator[Run]:
    ended = False

    def run(number: int) -> None:
        nonlocal ended
        world.reset()
        before()
        world.forks.start(replace(ask, kill_at=number))
        (code,) = world.forks.wait()
        ended = code == 0
        assert code in (0, -signal.SIGKILL), world.forks.said()[-2000:]
        world.check(ask, "new")

    number = 0
    while not ended:
        number += 1
        yield f"step {number}", partial(run, number)
    assert number > 5, "there are more steps than these"


def publication_killed_at_every_step(world: World) -> Iterator[Run]:
    """SIGKILL before each thing that is asked of the disk or of MLflow, until a publication ends before it is killed."""
    yield from _killed_at_every_step(world, world.publishing("new"), lambda: None)


def promotion_killed_at_every_step(world: World) -> Iterator[Run]:
    candidate = world.publishing("new", target=CANDIDATE)
    yield from _killed_at_every_step(world, world.ask("promote"), lambda: world.do(candidate))


def _killed_at_random_moments(world: World, ask: Ask, before: Callable[[], None]) -> Iterator[Run]:
    world.reset()
    before()
    started = time.monotonic()
    world.do(ask)
    usual_s = time.monotonic() - started

    def run(moment_s: float) -> None:
        world.reset()
        before()
        child = world.forks.start(ask)
        time.sleep(moment_s)
        os.kill(child, signal.SIGKILL)
        world.forks.wait()
        world.check(ask, "new")

    for _ in range(KILLS_AT_RANDOM):
        moment_s = world.random.uniform(0, usual_s)
        yield f"after {moment_s:.3f} s", partial(run, moment_s)


def publication_killed_at_random_moments(world: World) -> Iterator[Run]:
    yield from _killed_at_random_moments(world, world.publishing("new"), lambda: None)


def promotion_killed_at_random_moments(world: World) -> Iterator[Run]:
    candidate = world.publishing("new", target=CANDIDATE)
    yield from _killed_at_random_moments(world, world.ask("promote"), lambda: world.do(candidate))


def publishers_at_once(world: World) -> Iterator[Run]:
    """Many publishers of one model: each one's version is there, each one's promotion is on record."""

    def run() -> None:
        world.reset()
        for number in range(AT_ONCE):
            if not (world.folder / f"of-{number}").exists():
                world.artifact(f"of-{number}", f"{number}".encode() * 100)
            world.forks.start(world.publishing(f"of-{number}"))
        codes = world.forks.wait()
        for number in (number for number, code in enumerate(codes) if code):  # who was told to run it again does
            world.do(world.publishing(f"of-{number}"))
        store = store_in(world.registry)
        assert len(store.versions(NAME)) == AT_ONCE + 1
        promoted = {record.manifest for record in store.history(NAME)}
        made = {manifest_of(world.folder / f"of-{number}", NAME).digest for number in range(AT_ONCE)}
        assert made <= promoted
        world.do(world.publishing("new"))
        world.check(world.publishing("new"), "new")

    yield f"{AT_ONCE} at once", run


def database_locked(world: World) -> Iterator[Run]:
    """Another program holds SQLite's lock: a publisher says so, or waits; afterwards all is as it should be."""

    def run() -> None:
        world.reset()
        with contextlib.closing(sqlite3.connect(world.registry / "mlflow.db", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            world.forks.start(world.publishing("new"))
            (code,) = world.forks.wait()
            assert code == 1
            assert "does not answer (database is locked" in world.forks.said().splitlines()[-1]
            other.execute("ROLLBACK")
        world.check(world.publishing("new"), "new")

    yield "held until the publisher gives up", run


def clock_a_year_off(world: World) -> Iterator[Run]:
    """Nothing is decided by a clock: the promotion of whose clock is behind still comes last."""

    def run(years: float) -> None:
        world.reset()
        world.do(world.publishing("new", years=years))
        world.check(world.publishing("new"), "new")
        world.do(world.publishing("old", years=-years))
        with tempfile.TemporaryDirectory(dir=world.folder) as to:
            world.do(world.ask("check_reader", to=to))
            assert Path(to, "device", "model.onnx").read_bytes() == ARTIFACTS["old"]

    for years in (1.0, -1.0):
        yield f"{years:+.0f} year", partial(run, years)


def place_read_only(world: World) -> Iterator[Run]:
    """A publisher who may not write where artifacts are changes nothing and says so."""

    def run() -> None:
        world.reset()
        for path in (world.registry, *world.registry.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        (world.registry / "mlflow.db").chmod(0o666)
        world.registry.chmod(0o777)  # SQLite's journal is beside its database
        world.forks.start(world.publishing("new", user=NOBODY))
        (code,) = world.forks.wait()
        assert code == 1
        assert "Permission denied" in world.forks.said().splitlines()[-1]
        world.check(world.publishing("new"), "new")

    if os.getuid() == 0:
        yield "read-only artifacts", run


CASES = (
    publication_killed_at_every_step,
    promotion_killed_at_every_step,
    publication_killed_at_random_moments,
    promotion_killed_at_random_moments,
    publishers_at_once,
    database_locked,
    clock_a_year_off,
    place_read_only,
)
