"""What a second worker saves, and what a killed one costs, for every engine that jobs can run on.

    python -m benchmarks.fanout                    # a tiny model: a build is the start of its process and its libraries
    python -m benchmarks.fanout --checkpoint .amoeba/cache/subnets/KEY --shape d30w100

The jobs are builds of one int8 package for contexts of different lengths, so all cost the same; each has one thread, whatever
runs beside it, so that one worker uses one core and two use two. A round takes every engine with one worker, with two, and with
two of which one is killed in its first build; each is a process of its own, and its cluster is made and ended within the time.
Stopped, the same command goes on after the last. A round of twelve builds of a model of 135 million parameters takes about six
minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import _record
from components.progress import say

_ENGINES = ("threads", "processes", "dask", "ray")
_CASES = ((1, False), (2, False), (2, True))
"""Workers, and whether one is killed."""
_PROJECT = Path(__file__).parents[1]
_TESTS = _PROJECT / "tests"


class FanOutError(Exception):
    """A fan-out did not end, or not with what the others built."""


def plan(rounds: int) -> Iterator[tuple[int, str, int, bool]]:
    """Every measurement: its round, engine, workers, and whether one is killed."""
    for number in range(rounds):
        for engine in _ENGINES:
            yield from ((number, engine, *case) for case in _CASES)


def measure(engine: str, workers: int, kill: bool, jobs: int, checkpoint: Path, shape: str) -> dict[str, Any]:
    """Run one fan-out; raises FanOutError with what it said."""
    with tempfile.TemporaryDirectory(prefix="amoeba-fanout-") as out:
        command = [sys.executable, "-m", "benchmarks._fan_out", "--checkpoint", str(checkpoint), "--shape", shape]
        own = {
            "AMOEBA_TASK_RUNNER": engine,
            "AMOEBA_WORKERS": str(workers),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(map(str, (_PROJECT, _TESTS))),
        }
        done = subprocess.run(
            [*command, "--jobs", str(jobs), "--out", out, *(["--kill"] if kill else [])],
            env={**os.environ, **own},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 0:
        raise FanOutError(f"{engine} with {workers} workers ended with {done.returncode}:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if found["killed"] != kill:
        raise FanOutError(f"{engine}: no worker was seen that could be killed")
    return found


def report(runs: Sequence[dict[str, Any]]) -> bool:
    """Print the table; whether every fan-out built the same bytes."""
    bytes_ = runs[0]["digests"]

    def of(engine: str, workers: int, kill: bool, what: str) -> float:
        case = {"engine": engine, "workers": workers, "killed": kill}
        taken: list[float] = [run[what] for run in runs if case.items() <= run.items()]
        return statistics.median(taken)

    rows: list[list[Any]] = []
    for engine in _ENGINES:
        one, two, killed = (of(engine, *case, "seconds") for case in _CASES)
        equal = all(run["digests"] == bytes_ for run in runs if run["engine"] == engine)
        starting = [of(engine, *case, "starting_s") for case in _CASES[:2]]
        work = (one - starting[0]) / (two - starting[1])
        rows.append([engine, one, two, one / two, starting[1], work, killed, "equal" if equal else "DIFFERENT"])
    header = ["engine", "1 worker, s", "2 workers, s", "speed-up", "of that the start, s", "speed-up without it"]
    _record.table([*header, "one of 2 killed, s", "packages"], rows)
    return all(run["digests"] == bytes_ for run in runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--checkpoint", type=Path, help="a subnet's folder; a tiny one is made when not given")
    parser.add_argument("--shape", default="d2w100", help="the checkpoint's")
    parser.add_argument("--anew", action="store_true", help="forget what was run before")
    parser.add_argument("--loaded", action="store_true", help="say in the figures that the machine did other work too")
    given = parser.parse_args()
    setting = {"jobs": given.jobs, "checkpoint": str(given.checkpoint or "tiny"), "loaded": given.loaded}
    runs: list[dict[str, Any]] = [] if given.anew else _record.unfinished("fanout", setting).get("runs", [])
    with tempfile.TemporaryDirectory(prefix="amoeba-fanout-") as folder:
        from flows.settings import prepare_environment

        os.environ["AMOEBA_WORKSPACE"] = folder
        prepare_environment()
        from flows.own_server import prefect_server

        with prefect_server():
            checkpoint = given.checkpoint or _tiny(Path(folder) / "checkpoint")
            for number, engine, workers, kill in list(plan(given.rounds))[len(runs) :]:
                found = measure(engine, workers, kill, given.jobs, checkpoint, given.shape)
                say(
                    f"benchmark: round {number + 1}, {engine}, {workers} workers{', one killed' * kill}: {found['seconds']:.1f} s"
                )
                runs.append({"round": number, "engine": engine, "workers": workers, **found})
                _record.keep("fanout", {**setting, "runs": runs})
    sys.exit(not report(runs))


def _tiny(folder: Path) -> Path:
    sys.path.insert(0, str(_TESTS))
    from fixtures.tiny import make_model, write_base

    made: Path = write_base(folder, make_model(layers=2))
    return made


if __name__ == "__main__":
    main()
