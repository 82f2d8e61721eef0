"""What a `kill -9` of a whole onboarding may do: nothing is lost, nothing is half there, and the end is as it would have been.

An onboarding is killed at a random moment or before a random step to disk, run again, killed again, until a run ends. Then:

1. Every version in the registry was whole after every kill.
2. What was complete when a run was killed is not computed by the next.
3. The last run's bytes are those of an onboarding that nobody disturbed: artifacts, dvc.lock, remote, what is published.
4. The workspace holds the same files, and no more: nothing half made, no unfinished run, no upload without a version.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from faults.onboarding_process import COUNTER, KILL_AT
from faults.tally import Run
from fixtures.services import free_port, started
from fixtures.tiny import make_model, write_base
from fixtures.workspace import PROJECT, make_workspace

TARGET = "x86_avx512"
BASE, OTHER = "tiny-base", "other-base"
MOST_KILLS_A_CHAIN = 6
SAID_BY = {"data": "data: reading", "selection": "selection: what neurons", "supernet": "supernet: measuring every"}
"""A line that each stage says when it is computed."""
KEPT = (f"artifacts/{BASE}/supernet/*", ".amoeba/cache/packages/*/*", ".amoeba/cache/measurements/*.json")
_HOUR_S = 3600.0


@dataclass(frozen=True)
class Kill:
    """When: after so many seconds, or before that step to disk."""

    moment_s: float | None
    step: int | None

    def __str__(self) -> str:
        return f"after {self.moment_s:.2f} s" if self.moment_s is not None else f"before step {self.step}"


@dataclass
class World:
    """A workspace that is as new before each chain of kills, and how an undisturbed onboarding of it ends."""

    folder: Path
    environment: dict[str, str]
    usual_s: float = 0.0
    usual_steps: int = 0
    wanted: dict[str, str] = field(default_factory=dict)
    runs: list[subprocess.Popen[bytes]] = field(default_factory=list)
    """All that were started."""

    @property
    def workspace(self) -> Path:
        return self.folder / "workspace"

    @property
    def home(self) -> Path:
        return self.workspace / ".amoeba"

    def reset(self) -> None:
        shutil.rmtree(self.workspace, ignore_errors=True)
        shutil.copytree(self.folder / "pristine", self.workspace)

    def start(self, kill_at: int = 0, base: str = BASE, name: str = "one") -> subprocess.Popen[bytes]:
        """An onboarding, in a process group of its own."""
        (self.folder / "steps").write_bytes(bytes(8))
        steps = {COUNTER: str(self.folder / "steps"), KILL_AT: str(kill_at)}
        asked = ("onboard", f"../{base}", "--profile", "tiny", "--target", TARGET, "--json")
        with (self.folder / f"{name}.err").open("wb") as said, (self.folder / f"{name}.out").open("wb") as answered:
            run = subprocess.Popen(
                [self.folder / "python", "-m", "flows.cli", *asked],
                cwd=self.workspace,
                env=self.environment | steps,
                stdin=subprocess.DEVNULL,
                stdout=answered,
                stderr=said,
                process_group=0,
            )
        self.runs.append(run)
        return run

    def close(self) -> None:
        """End what is still at work, where a run did not come to its end."""
        for run in self.runs:
            if run.poll() is None:
                os.killpg(run.pid, signal.SIGKILL)

    def said(self, name: str = "one") -> str:
        return (self.folder / f"{name}.err").read_text()

    def answered(self, name: str = "one") -> dict[str, Any]:
        outcome: dict[str, Any] = json.loads((self.folder / f"{name}.out").read_text())
        return outcome

    def steps(self) -> int:
        return int.from_bytes((self.folder / "steps").read_bytes(), sys.byteorder)

    def disturbed(self, kill: Kill) -> bool:
        """Run, and kill it then; False where it ended before."""
        run = self.start(kill.step or 0)
        try:
            status = run.wait(kill.moment_s if kill.moment_s is not None else _HOUR_S)
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
            status = run.wait()
        _wait_for_group(run.pid)
        assert status in (0, -signal.SIGKILL), self.said()[-3000:]
        return status != 0

    def end(self) -> None:
        """Run to the end."""
        assert self.start().wait(_HOUR_S) == 0, self.said()[-3000:]

    def learn(self) -> None:
        """How long an undisturbed onboarding takes, and how it ends."""
        self.reset()
        started_s = time.monotonic()
        self.end()
        self.usual_s, self.usual_steps = time.monotonic() - started_s, self.steps()
        self.wanted = self.state()

    def complete(self) -> set[str]:
        """What need not be computed again, by what is said when it is."""
        found = {
            SAID_BY[stage] for stage in SAID_BY if self._is_locked(stage) or self._made("finished", f"*.{stage}.*")
        }
        if self._made("packages", "*"):
            found.add("packaging ")
        if len(list((self.home / "cache" / "measurements").glob("*.json"))) == 2:
            found |= {f"measuring {TARGET}", "measuring the full model"}
        return found

    def _is_locked(self, stage: str) -> bool:
        with contextlib.suppress(OSError, TypeError, KeyError, yaml.YAMLError):
            return "outs" in yaml.safe_load((self.workspace / "dvc.lock").read_text())["stages"][f"{stage}@{BASE}"]
        return False

    def _made(self, folder: str, name: str) -> bool:
        return any(path.is_dir() for path in (self.home / "cache" / folder).glob(name) if path.name[0] != ".")

    def registry(self) -> dict[str, str]:
        """Rule 1: what is there, after every version was pulled and verified."""
        asked = [self.folder / "python", "-m", "faults.onboarding_registry", self.home]
        done = subprocess.run(asked, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return {name: str(known) for name, known in json.loads(done.stdout).items()}

    def state(self) -> dict[str, str]:
        """Rules 3 and 4: every file by its path, with its digest where an undisturbed onboarding's has the same."""
        found = self.registry()
        with contextlib.closing(sqlite3.connect(self.folder / "prefect" / "prefect.db")) as prefect:
            known = "select count(*) from flow_run where state_type = 'RUNNING' and infrastructure_pid is not null"
            found["flow runs at work"] = str(prefect.execute(known).fetchone()[0])
        contents: dict[str, list[str]] = {}
        for path in sorted(path for path in self.workspace.rglob("*") if path.is_file()):
            name = path.relative_to(self.workspace).as_posix()
            if _counts(name):
                contents.setdefault(_placed(name), []).append(_content(name, path))
        return {**found, **{name: " ".join(sorted(several)) for name, several in contents.items()}}


def _counts(name: str) -> bool:
    """Not databases, which grow by being used, nor locks; nor what MLflow was copying beside a version: it goes a minute later."""
    if ".artifact.uploading." in name and "/artifact-" not in name:
        return False
    return not name.startswith((".git/", ".dvc/tmp/", ".amoeba/prefect/")) and not name.endswith(
        (".lock", "mlflow.db", "mlflow.db-journal", ".pyc")
    )


def _placed(name: str) -> str:
    """A path without what is drawn or timed anew for every run: MLflow's runs, digests of what holds times."""
    name = re.sub(r"(mlflow-artifacts/)[0-9a-f]{32}", r"\1RUN", name)
    name = re.sub(r"(artifact|attached)-[0-9a-f]{16}", r"\1-DIGEST", name)
    return re.sub(r"(attached-DIGEST/)[0-9a-f]{64}", r"\1DIGEST", name)


def _content(name: str, path: Path) -> str:
    """The digest, of a manifest without what the clock said; of other files that hold times nothing."""
    if name.endswith("manifest.json"):
        manifest: dict[str, Any] = json.loads(path.read_text())
        facts = manifest.get("facts", {})
        for figures in (facts.get("point", {}), facts.get("measurement", {})):
            for timed in ("ttft_ms", "tpot_ms", "memory_mb", "latency"):
                figures.pop(timed, None)
        return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    exact = ("artifacts/", ".dvc/cache/", ".amoeba/dvc-remote/", ".amoeba/cache/subnets/", ".amoeba/cache/packages/")
    if name.startswith((*exact, ".amoeba/cache/built/")) or name in ("dvc.lock", "bases.yaml") or "/artifact-" in name:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return "there"


def _wait_for_group(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        while True:
            os.killpg(group, 0)
            time.sleep(0.005)


@contextlib.contextmanager
def world(work: Path | None = None) -> Iterator[World]:
    """In a folder of its own, with a Prefect server that outlives every kill, as a team's does."""
    with tempfile.TemporaryDirectory(dir=work) as name:
        folder = Path(name)
        for seed, base in enumerate((BASE, OTHER)):
            (folder / base).mkdir()
            write_base(folder / base, make_model(seed=seed))
        _make_pristine(folder / "pristine")
        port = free_port()
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("AMOEBA_", "PREFECT_"))},
            "AMOEBA_WORKSPACE": str(folder / "workspace"),
            "CI": "true",  # DVC asks for no newer version of itself
            "DO_NOT_TRACK": "true",
            "DVC_NO_ANALYTICS": "1",
            "HF_HUB_OFFLINE": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "OMP_NUM_THREADS": "1",
            "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_LOGGING_LEVEL": "CRITICAL",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONPATH": os.pathsep.join([str(PROJECT), str(PROJECT / "tests")]),
            "XDG_CONFIG_HOME": str(folder / "config"),
        }
        server = ["-m", "uvicorn", "--factory", "prefect.server.api.server:create_app", "--port", str(port)]
        quiet = {**environment, "PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1"}
        health = f"http://127.0.0.1:{port}/api/health"
        with (
            started([sys.executable, *server, "--log-level", "error"], folder / "prefect.log", quiet, health),
            (folder / "forks.log").open("wb") as errors,
        ):
            forks = subprocess.Popen(
                [sys.executable, "-m", "faults.onboarding_process", str(folder)],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
            try:
                assert forks.stdout is not None
                assert forks.stdout.readline() == b"ready\n", (folder / "forks.log").read_text()
                with contextlib.closing(World(folder, environment)) as made:
                    made.learn()
                    yield made
            finally:
                forks.kill()
                forks.wait()


def _make_pristine(folder: Path) -> None:
    """A workspace with an empty registry: how that is made is the registry's own fault suite's."""
    from registry.embedded import ensure_database

    make_workspace(folder)
    parameters = yaml.safe_load((folder / "params.yaml").read_text())
    parameters["measure"] |= {"runs": 3, "new_tokens": 2}
    parameters["profiles"]["tiny"]["supernet"]["finetune"]["checkpoint_every"] = 1
    (folder / "params.yaml").write_text(yaml.safe_dump(parameters))
    ensure_database(folder / ".amoeba" / "mlflow.db")


def draw(world: World, numbers: random.Random) -> Kill:
    """Half of them by the clock, half by the count of steps."""
    if numbers.random() < 0.5:
        return Kill(numbers.uniform(0, world.usual_s), None)
    return Kill(None, numbers.randint(1, world.usual_steps))


def chain(world: World, seed: int, kills: list[str]) -> None:
    """One onboarding, killed again and again and at last not; `kills` says when. Raises AssertionError for a broken rule."""
    numbers = random.Random(seed)
    world.reset()
    complete: set[str] = set()
    for _ in range(MOST_KILLS_A_CHAIN):
        kill = draw(world, numbers)
        killed = world.disturbed(kill)
        _check_not_repeated(complete, world.said(), kills)
        if not killed:
            break
        kills.append(str(kill))
        complete = world.complete()
        world.registry()
    else:
        world.end()
        _check_not_repeated(complete, world.said(), kills)
    _check_same(world, kills)


def _check_same(world: World, kills: Sequence[str] = ()) -> None:
    """Rules 3 and 4."""
    found = world.state()
    differs = {name: (world.wanted.get(name), found.get(name)) for name in {*world.wanted, *found}}
    differs = {name: sides for name, sides in differs.items() if sides[0] != sides[1]}
    assert not differs, f"killed {', '.join(kills)}: {differs}"


def _check_not_repeated(complete: set[str], said: str, kills: list[str]) -> None:
    """Rule 2."""
    repeated = {line for line in complete if line in said}
    assert not repeated, f"killed {', '.join(kills)}, and computed again: {repeated}"


def onboarding_killed_again_and_again(world: World, seeds: range = range(1)) -> Iterator[Run]:
    """Chains of kills, a seed each."""
    for seed in seeds:
        yield f"seed {seed}", partial(chain, world, seed, [])


def one_of_its_processes_killed(world: World) -> Iterator[Run]:
    """The first alone, which its workers end with; or a worker alone, which is tried again or told, and then run again."""

    def run(which: str) -> None:
        world.reset()
        running = world.start()
        victim = _worker(world, running.pid, which)
        os.kill(victim, signal.SIGKILL)
        running.wait(_HOUR_S)
        _wait_for_group(running.pid)
        world.registry()
        world.end()
        _check_same(world)

    for which in ("flows.cli", "flows.dvc_alone", "components.stages", "edge_targets"):
        yield which, partial(run, which)


def _worker(world: World, group: int, module: str) -> int:
    """The process of that module, once there is one."""
    until_s = time.monotonic() + _HOUR_S
    while time.monotonic() < until_s:
        for note in (world.folder / "forked").glob(f"{group}.*"):
            with contextlib.suppress(OSError):
                if note.read_text() == module:
                    return int(note.suffix[1:])
        time.sleep(0.002)
    raise AssertionError(f"no process of {module} was started")


def damaged_since(world: World) -> Iterator[Run]:
    """A byte of all that is kept is turned over, times and sizes as they were: it is made again, and nothing else comes out."""

    def run() -> None:
        world.reset()
        world.end()
        for kept in KEPT:
            files = [path for path in world.workspace.glob(kept) if path.is_file()]
            _turn_a_bit(max(files, key=lambda path: path.stat().st_size))
        world.end()
        _check_same(world)

    yield ", ".join(KEPT), run


def _turn_a_bit(path: Path) -> None:
    before, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(before.st_mode)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def two_at_once(world: World) -> Iterator[Run]:
    """Of one base, of which the second waits, says so, and finds everything done; and of two, which share DVC and registry."""

    def run(other: str, said: str) -> None:
        world.reset()
        running = {"one": world.start(), "two": world.start(base=other, name="two")}
        assert {name: one.wait(_HOUR_S) for name, one in running.items()} == {"one": 0, "two": 0}, [
            world.said(name)[-2000:] for name in running
        ]
        heard = [line for name in running for line in world.said(name).splitlines()]
        assert any(said in line for line in heard), heard
        assert not [line for line in heard if re.search("error|unable|locked|busy, it", line, re.IGNORECASE)]
        assert [world.answered(name)["failed"] for name in running] == [{}, {}]
        if other == BASE:
            assert world.answered("one") == world.answered("two")
            _check_same(world)
        else:
            found = world.state()
            assert {found[f"versions of {base}--{TARGET}"] for base in (BASE, OTHER)} == {"['1 production']"}
            own = [name for name in world.wanted if name.startswith(f"artifacts/{BASE}/")]
            assert {name: found[name] for name in own} == {name: world.wanted[name] for name in own}

    yield "the same base", partial(run, BASE, f"{BASE} is being onboarded or built from by another process; waiting")
    yield "two bases", partial(run, OTHER, "DVC is at work for another onboarding in this workspace; waiting")


QUICK = (onboarding_killed_again_and_again, two_at_once)
"""What every run of the tests does; `benchmarks.kills` does the rest, and more kills."""
THOROUGH = (one_of_its_processes_killed, damaged_since, two_at_once)
