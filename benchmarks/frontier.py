"""The frontier that `amoeba explore` published, with intervals, against the dense model alone.

    amoeba explore smollm2-135m x86_avx512 --points 8 && python -m benchmarks.frontier

Intervals are of 95 %: accuracy by Wilson, times by the sign test over one process's runs (another process or another day may be
further off), perplexity by Student's t over windows of text. Area is that of logarithm of time per token and of perplexity below
a corner of twice the dense int8 model's time and four times its perplexity.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Sequence

import numpy as np
from scipy import stats

from benchmarks import _record
from components.frontier import Point, hypervolume
from flows.explored import Member, frontier_of
from flows.report.intervals import median
from flows.tracking import store
from registry import naming

DENSE = "d30w100"
_FIGURES = ("perplexity", "tpot_ms", "ttft_ms", "memory_mb")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--target", default="x86_avx512")
    given = parser.parse_args()
    registry = store()
    explored = frontier_of(registry, registry.resolve(naming.package_model(given.model, given.target)))
    if explored is None:
        raise SystemExit(f"{given.model} has no frontier for {given.target}; amoeba explore makes one")
    header = [
        "version",
        "candidate",
        "perplexity",
        "accuracy",
        "ms/token",
        "TTFT ms",
        "memory MB",
        "predicted of the four without it",
    ]
    rows = [_row(member) for member in explored.members]
    _record.table(header, rows)
    points = [member.point for member in explored.members]
    measured = [*points, *(one.point for one in explored.considered if one.point is not None)]
    dense = {point.quantization: point for point in measured if point.shape == DENSE}
    if "int8" not in dense:
        raise SystemExit(f"{DENSE} in int8 was not measured, which the others are compared with; explore more points")
    corner = math.log(2 * dense["int8"].tpot_ms), math.log(4 * dense["int8"].known_perplexity)
    areas = [
        ["the frontier", len(points), _area(points, corner)],
        *([f"the dense model, {name}", 1, _area([point], corner)] for name, point in dense.items()),
        ["the dense model, all of these", len(dense), _area(dense.values(), corner)],
    ]
    _record.table(["area of", "points", "area"], areas)
    errors = [
        {name: getattr(one.predicted, name) / getattr(one.point, name) - 1 for name in _FIGURES}
        for one in explored.members
    ]
    worst = {name: max(abs(one[name]) for one in errors) for name in errors[0]}
    print(
        f"held-out predictions of the members are within {', '.join(f'{value:.0%} ({name})' for name, value in worst.items())}"
    )
    facts = {"measured": len(measured), "areas": areas, "errors": errors, "host": explored.host}
    _record.keep("frontier", {"header": header, "rows": rows, **facts})


def _area(points: Iterable[Point], corner: tuple[float, float]) -> float:
    return hypervolume([(math.log(point.tpot_ms), math.log(point.known_perplexity)) for point in points], corner)


def _row(member: Member) -> list[str]:
    point, predicted, samples = member.point, member.predicted, member.samples
    low, high = point.accuracy_interval or (0.0, 1.0)
    nats = np.exp(stats.t.interval(0.95, len(samples.nats) - 1, np.mean(samples.nats), stats.sem(samples.nats)))
    return [
        member.version,
        f"{point.shape} {point.quantization}",
        f"{point.known_perplexity:.2f} [{nats[0]:.1f}, {nats[1]:.1f}]",
        f"{point.accuracy:.1%} [{low:.0%}, {high:.0%}]",
        _timed(samples.tpot_ms, 2),
        _timed(samples.ttft_ms[min(samples.ttft_ms)], 0),
        f"{point.memory_mb:.0f}",
        f"{predicted.perplexity:.1f}, {predicted.tpot_ms:.2f}, {predicted.ttft_ms:.0f}, {predicted.memory_mb:.0f}",
    ]


def _timed(samples: Sequence[float], digits: int) -> str:
    estimate = median(samples)
    interval = f" [{', '.join(f'{end:.{digits}f}' for end in estimate.interval)}]" if estimate.interval else ""
    return f"{estimate.value:.{digits}f}{interval}"


if __name__ == "__main__":
    main()
