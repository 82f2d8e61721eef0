"""What `amoeba serve --port` tells Prometheus at /metrics.

Runs are processes of their own, so what they count is in a small database in the workspace, which every process of it adds to. It
is there from the first `amoeba serve --port` on, and stays: counters go on over restarts. Where it is not, nothing is counted.
Labels are names of steps, targets and classes of errors: there are few of each.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from components.progress import say
from flows.settings import WorkspaceError, settings

if TYPE_CHECKING:
    from prometheus_client.core import Metric

BUCKETS_S = (1, 5, 15, 60, 300, 900, 3600, 14400, 43200, float("inf"))
"""Upper ends: a tiny base's step takes one second, the longest training half a day."""
OUTCOMES = ("complete", "incomplete", "failed")
_STEP = ("step", "target", "outcome")
_COUNTERS = {
    "amoeba_step_failures": ("Tries of a step that failed, by the error's class.", ("step", "reason", "tried_again")),
    "amoeba_onboardings": ("Onboardings that ended; incomplete: not for every target.", ("outcome",)),
    "amoeba_published_packages": ("Packages published.", ("target",)),
}
_LOOKED = "amoeba_last_look_timestamp_seconds"
_WAIT_S = 10.0
_TABLE = "CREATE TABLE IF NOT EXISTS counts (name TEXT, labels TEXT, value REAL, PRIMARY KEY (name, labels))"
_ADD = "INSERT INTO counts VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET value = value + excluded.value"
_PUT = "INSERT OR REPLACE INTO counts VALUES (?, ?, ?)"


def begin() -> None:
    """Count from now on, in this workspace; onboardings from 0, since Prometheus sees no increase to a first value.

    Counts that cannot be read, as after a power cut, are put aside.
    """
    _place().parent.mkdir(parents=True, exist_ok=True)
    try:
        _make()
    except sqlite3.OperationalError:  # a full disk, a lock
        raise
    except sqlite3.DatabaseError as error:
        aside = _place().replace(_place().with_suffix(".damaged"))
        say(f"what was counted cannot be read ({error}) and is {aside} now; counts begin anew")
        _make()
    _write(_ADD, [("amoeba_onboardings", {"outcome": outcome}, 0.0) for outcome in OUTCOMES])


def _make() -> None:
    with contextlib.closing(sqlite3.connect(_place(), timeout=_WAIT_S)) as database, database:
        database.execute(_TABLE)


def step_ended(step: str, target: str, outcome: str, seconds: float) -> None:
    bucket = next(str(end) for end in BUCKETS_S if seconds <= end)
    labels = {"step": step, "target": target, "outcome": outcome}
    _write(_ADD, [("step_bucket", {**labels, "le": bucket}, 1.0), ("step_sum", labels, seconds)])


def step_failed(step: str, error: BaseException, tried_again: bool) -> None:
    labels = {"step": step, "reason": type(error).__name__, "tried_again": "yes" if tried_again else "no"}
    _write(_ADD, [("amoeba_step_failures", labels, 1.0)])


def onboarding_ended(outcome: str) -> None:
    _write(_ADD, [("amoeba_onboardings", {"outcome": outcome}, 1.0)])


@contextlib.contextmanager
def failing_onboarding() -> Iterator[None]:
    """An onboarding that ends inside, before its run begins, has failed."""
    try:
        yield
    except Exception:
        onboarding_ended("failed")
        raise


def package_published(target: str) -> None:
    _write(_ADD, [("amoeba_published_packages", {"target": target}, 1.0)])


def sources_looked_at() -> None:
    _write(_PUT, [(_LOOKED, {}, time.time())])


def exposition() -> bytes:
    """All of it as Prometheus reads it."""
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry()
    registry.register(_Collector())
    return generate_latest(registry)


class _Collector:
    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        counts = _read()
        took = HistogramMetricFamily("amoeba_step_seconds", "Seconds that a try of a step took.", labels=_STEP)
        for labels, total_s in counts.get("step_sum", {}).items():
            took.add_metric([dict(labels)[name] for name in _STEP], _cumulated(labels, counts["step_bucket"]), total_s)
        yield took
        for name, (text, names) in _COUNTERS.items():
            counter = CounterMetricFamily(name, text, labels=names)
            for labels, value in counts.get(name, {}).items():
                counter.add_metric([dict(labels)[label] for label in names], value)
            yield counter
        free = shutil.disk_usage(settings().root).free
        yield GaugeMetricFamily("amoeba_workspace_free_bytes", "Free on the disk of the workspace.", free)
        for value in counts.get(_LOOKED, {}).values():
            yield GaugeMetricFamily(_LOOKED, "When the sources were last looked at.", value)


_Labels = tuple[tuple[str, str], ...]


def _cumulated(labels: _Labels, buckets: Mapping[_Labels, float]) -> list[tuple[str, float]]:
    """For each upper end how many took no longer."""
    total, found = 0.0, []
    for end in BUCKETS_S:
        total += buckets.get(_sorted({**dict(labels), "le": str(end)}), 0.0)
        found.append(("+Inf" if end == BUCKETS_S[-1] else str(float(end)), total))
    return found


def _read() -> dict[str, dict[_Labels, float]]:
    found: dict[str, dict[_Labels, float]] = {}
    with contextlib.closing(sqlite3.connect(_place(), timeout=_WAIT_S)) as database:
        for name, labels, value in database.execute("SELECT name, labels, value FROM counts ORDER BY name, labels"):
            found.setdefault(name, {})[_sorted(json.loads(labels))] = value
    return found


def _write(statement: str, rows: list[tuple[str, dict[str, str], float]]) -> None:
    """What cannot be counted fails nothing."""
    try:
        if not _place().is_file():
            return
        with contextlib.closing(sqlite3.connect(_place(), timeout=_WAIT_S)) as database, database:
            told = [(name, json.dumps(labels, sort_keys=True), value) for name, labels, value in rows]
            database.executemany(statement, told)
    except WorkspaceError:
        return
    except (sqlite3.Error, OSError) as error:
        say(f"{rows[0][0]} is not counted: {error}")


def _sorted(labels: Mapping[str, str]) -> _Labels:
    return tuple(sorted(labels.items()))


def _place() -> Path:
    return settings().home / "metrics.db"
