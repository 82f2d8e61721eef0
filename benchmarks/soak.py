"""The service over many onboardings: tiny models are dropped one after another into a folder that it watches.

    python -m benchmarks.soak --onboardings 100

Each model is new and is onboarded for one target by `amoeba serve` with a Prefect server of its own; sources are looked at and
runs asked for every second. After each the service's processes and the workspace's folders are looked at from outside. What
should not grow is held to a bound over the last three quarters, by the upper end of its interval: exit 1 where something grows.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import _record
from benchmarks._footprint import OTHERS, SERVER, SERVICE, disk, footprint
from benchmarks._growth import FEWEST, Growth, growth
from components.progress import say

_TARGET = "x86_avx2"
_WARM_UP = 0.25
"""The share of onboardings that is left out: libraries are loaded, caches of fixed size fill."""
_SETTLES_S, _LOOKS = 60.0, 5
_IDLE = 2
"""Processes of a service that runs nothing: itself and its Prefect server."""
_TOLD = 20_000
"""Characters of a log."""
SECONDS = "seconds"
GROWS = {
    "artifacts": "data, selection and supernet of every base",
    ".dvc/cache": "the same, by content",
    ".amoeba/dvc-remote": "the same, pushed",
    ".amoeba/cache": "bases, subnets, builds, packages and measurements of every base",
    ".amoeba/mlflow-artifacts": "what is published",
    ".amoeba/mlflow.db": "versions and runs",
    ".amoeba/prefect": "runs, with their logs and events",
    ".amoeba/reports": "a page for every base",
}
"""Of the workspace: what is kept for good, and grows with every onboarding."""
CLEARED = {
    ".dvc/tmp": "DVC's locks",
    ".amoeba/cache/unfinished": "what a killed stage goes on from",
    ".amoeba/cache/finished": "stages that DVC has not taken yet",
    "../temporary": "the service's temporary folder",
}


@dataclass(frozen=True)
class Bound:
    """Most growth of a figure over 100 onboardings."""

    most: float
    unit: str

    def holds(self, found: Growth) -> bool:
        """Not merely unproven growth: the interval's upper end is under the bound."""
        return self._of(found).high < self.most

    def told(self, found: Growth) -> list[Any]:
        return [_interval(self._of(found)), f"under {self.most:g} {self.unit}"]

    def _of(self, found: Growth) -> Growth:
        return found.percent() if self.unit == "%" else found


BOUNDS = {
    **{f"{role}: memory_mb": Bound(10, "%") for role in (SERVICE, SERVER)},
    **{f"{role}: open_files": Bound(1, "") for role in (SERVICE, SERVER)},
    f"{SERVICE}: threads": Bound(1, ""),
    # Of its pool of at most 40 some come and go between two looks, so that no interval is narrower.
    f"{SERVER}: threads": Bound(10, ""),
    **{f"{OTHERS}: {what}": Bound(1, "") for what in ("memory_mb", "open_files", "threads")},
    **{what: Bound(1, "") for what in ("processes", "zombies")},
    **{place: Bound(1, "MB") for place in CLEARED},
}


def soak(folder: Path, onboardings: int, at_once: int) -> Iterator[dict[str, float]]:
    """What was found after every so many onboardings, `at_once`; raises RuntimeError where one does not complete."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from fixtures.service import served
    from fixtures.tiny import make_model, write_base
    from fixtures.workspace import amoeba, make_workspace

    workspace, dropped, temporary = make_workspace(folder / "workspace"), folder / "dropped", folder / "temporary"
    dropped.mkdir()
    temporary.mkdir()
    added = amoeba(workspace, "bases", "add", str(dropped), "--profile", "tiny", "--target", _TARGET)
    if added.returncode != 0:
        raise RuntimeError(added.stderr)
    often = {"PREFECT_RUNNER_POLL_FREQUENCY": "1", "TMPDIR": str(temporary)}
    logs = (folder / "serve.log", workspace / ".amoeba" / "prefect" / "server.log")
    with _telling(logs), served(workspace, "--every", "1", "--at-once", str(at_once), **often) as service:
        for done in range(0, onboardings, at_once):
            made = [
                write_base(folder / f"tiny-{seed:03}", make_model(seed=seed)) for seed in range(done, done + at_once)
            ]
            started = time.monotonic()
            for base in made:
                base.rename(dropped / base.name)
            states = service.ended("arrive", done + at_once)
            if set(states) != {"Completed"}:
                raise RuntimeError(f"not all of {len(states)} runs completed: {', '.join(states)}")
            seconds = time.monotonic() - started
            places = {name: workspace / name for name in (*GROWS, *CLEARED)}
            yield {SECONDS: seconds, **_settled(service.process.pid), **disk(places)}


@contextmanager
def _telling(logs: Sequence[Path]) -> Iterator[None]:
    """Where something goes wrong, what the service and its server said last."""
    try:
        yield
    except BaseException:
        for log in logs:
            say(f"benchmark: the end of {log.name}:\n{log.read_text(errors='replace')[-_TOLD:]}")
        raise


def _settled(service: int) -> dict[str, float]:
    """The medians of a few looks, once the processes of the last run have ended."""
    until = time.monotonic() + _SETTLES_S
    while footprint(service)["processes"] > _IDLE and time.monotonic() < until:
        time.sleep(0.5)
    looks = []
    for _ in range(_LOOKS):
        time.sleep(0.5)
        looks.append(footprint(service))
    return {name: statistics.median(look.get(name, 0) for look in looks) for name in sorted(set().union(*looks))}


def judged(taken: list[dict[str, float]], at_once: int) -> dict[str, Growth]:
    """The growth of every figure, without what was taken while the service warmed up; empty where that is too little."""
    warm = taken[round(_WARM_UP * len(taken)) :]
    return (
        {name: growth([one.get(name, 0) for one in warm], at_once) for name in warm[-1]} if len(warm) >= FEWEST else {}
    )


def report(grown: dict[str, Growth]) -> None:
    rows = []
    for name, found in grown.items():
        bound = BOUNDS.get(name)
        if bound is None:
            told = [_interval(found), f"kept for good: {GROWS[name]}" if name in GROWS else "", ""]
        else:
            told = [*bound.told(found), "yes" if bound.holds(found) else "NO"]
        rows.append([name, found.level, *told])
    _record.table(["figure", "at first", "growth over 100 onboardings (95 %)", "bound", "flat"], rows)


def _interval(found: Growth) -> str:
    return f"{found.per_100:.2f} ({found.low:.2f} to {found.high:.2f})"


def _keep(taken: list[dict[str, float]], at_once: int) -> bool:
    """Write all that is known so far; whether everything that is bounded is flat."""
    grown = judged(taken, at_once)
    flat = {name: bound.holds(grown[name]) for name, bound in BOUNDS.items() if name in grown}
    figures = {
        "onboardings": len(taken) * at_once,
        "at_once": at_once,
        "flat": flat,
        "bounds": {name: asdict(bound) for name, bound in BOUNDS.items()},
        "growth": {name: asdict(found) for name, found in grown.items()},
        "kept_for_good": GROWS,
        "taken": taken,
    }
    _record.keep("soak", figures)
    return bool(flat) and all(flat.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--onboardings", type=int, default=100, help="at most 200, which is what Prefect tells at once")
    parser.add_argument("--at-once", type=int, default=2, help="models dropped together, and runs at a time")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # or the service would go on without us
    taken: list[dict[str, float]] = []
    flat = False
    with tempfile.TemporaryDirectory(prefix="amoeba-soak-") as folder:
        for figures in soak(Path(folder), given.onboardings, given.at_once):
            taken.append(figures)
            memory = f"{figures[f'{SERVICE}: memory_mb']:.0f} + {figures[f'{SERVER}: memory_mb']:.0f} MB"
            say(f"benchmark: {len(taken) * given.at_once} onboardings, the last in {figures[SECONDS]:.0f} s; {memory}")
            flat = _keep(taken, given.at_once)
    report(judged(taken, given.at_once))
    sys.exit(not flat)


if __name__ == "__main__":
    main()
