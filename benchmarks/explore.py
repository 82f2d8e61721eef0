"""What a search with few measurements finds of a frontier, where every candidate was measured.

    python -m benchmarks.predictor build && python -m benchmarks.predictor time      # the packages and their times
    python -m benchmarks.explore quality --seconds 200                               # perplexity of each, run until it says all
    python -m benchmarks.explore report

The space is that of `benchmarks.predictor`: a dozen shapes in int8 and int4, all of one supernet, real packages on this machine.
The search may measure as many as it is told, in the order that it decides; what it does not measure it does not see. Area is that
of logarithm of time per token and logarithm of perplexity below a corner of twice the dense int8 model's time and four times its
perplexity.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import edge_targets
from benchmarks import _record, predictor
from components.exploration import Exploration, Option, Outcome, Prior
from components.frontier import hypervolume
from components.progress import say
from components.quality import features

DENSE = "d30w100"
UNIFORM = ("d30w100", "d30w75", "d30w50")
"""Every layer as wide as every other, trained in the same supernet: no layer is chosen, only how wide all are."""
POINTS = (4, 6, 8, 10, 12)
DRAWS = 500


def quality(work: Path, seconds: float, threads: int) -> None:
    """Perplexity of every package on the evaluation's text, by its own runtime; those that are known are left."""
    from benchmarks._workspace import Workspace
    from components.evaluate import perplexity
    from edge_targets._device import facts

    windows, ends = Workspace.of().evaluation_windows, time.monotonic() + seconds
    for folder in predictor.folders(work):
        out = work / f"{folder.name}-perplexity.json"
        if out.is_file():
            continue
        if time.monotonic() > ends:
            return
        value = perplexity(facts.load(folder, threads).logits, windows).value
        out.write_text(json.dumps(value))
        say(f"{folder.name}: {value:.2f}")
    say("all are known")


def space(work: Path) -> tuple[Exploration, dict[Option, Outcome]]:
    """The search before anything is measured, and what each option measures."""
    facts, outlines = predictor.outlines()
    target = edge_targets.load("x86_avx512")
    truth = {}
    for package in predictor.packages(work):
        option = Option(package.quantization, outlines[package.shape], package.run.load)
        value = json.loads((work / f"{package.shape}-{package.quantization}-perplexity.json").read_text())
        truth[option] = Outcome(option, value, package.run)
    known = [
        (features(outlines[name], None, evaluation=False), value)
        for name, value in facts["validation_perplexity"].items()
    ]
    ratios = {one.name: one.perplexity_ratio for one in target.quantizations}
    prior = Prior(known, ratios, target.device.bandwidth_gb_s, target.device.int8_gops)
    return Exploration(tuple(truth), prior), truth


def report(work: Path) -> None:
    start, truth = space(work)
    dense = {one.quantization: truth[one] for one in truth if one.outline.name == DENSE}
    corner = dense["int8"].place[0] + math.log(2), dense["int8"].place[1] + math.log(4)

    def area(outcomes: Iterable[Outcome]) -> float:
        return hypervolume((one.place for one in outcomes), corner)

    every = area(truth.values())
    found = _searched(start, truth)
    rows: list[list[Any]] = [
        ["all candidates", len(truth), every, 0.0],
        *(
            [f"search, {points} points", points, area(found[:points]), 1 - area(found[:points]) / every]
            for points in POINTS
        ),
    ]
    for points in POINTS:
        drawn = [area(random.Random(seed).sample(list(truth.values()), points)) for seed in range(DRAWS)]
        rows.append(
            [f"{points} points at random (median of {DRAWS})", points, median(drawn), 1 - median(drawn) / every]
        )
    for title, chosen in _baselines(truth).items():
        rows.append([title, len(chosen), area(chosen), 1 - area(chosen) / every])
    header = ["frontier of", "measured", "area", "regret: share of the area of all that is missed"]
    _record.table(header, rows)
    _record.table(
        ["measured", "candidate", "ms/token", "perplexity"],
        [
            [number, one.option.name, one.run.tpot_ms, one.perplexity]
            for number, one in enumerate(found[: max(POINTS)], 1)
        ],
    )
    candidates = [
        {"candidate": one.option.name, "tpot_ms": one.run.tpot_ms, "perplexity": one.perplexity}
        for one in truth.values()
    ]
    order = [one.option.name for one in found]
    _record.keep(
        "explore", {"header": header, "rows": rows, "corner": corner, "order": order, "candidates": candidates}
    )


def _baselines(truth: Mapping[Option, Outcome]) -> dict[str, list[Outcome]]:
    def of(wanted: Sequence[str], quantization: str | None = None) -> list[Outcome]:
        return [
            one
            for option, one in truth.items()
            if option.outline.name in wanted and quantization in (None, option.quantization)
        ]

    homogeneous = [option.outline.name for option in truth if option.outline.name.startswith("d")]
    return {
        "the dense model, int8": of([DENSE], "int8"),
        "the dense model, int4": of([DENSE], "int4"),
        "the dense model, both": of([DENSE]),
        "uniform widths at full depth, both": of(UNIFORM),
        "all homogeneous shapes, both": of(homogeneous),
    }


def _searched(start: Exploration, truth: Mapping[Option, Outcome]) -> list[Outcome]:
    """Every outcome in the order in which the search measures them."""
    while (best := start.next()) is not None:
        start = start.after(truth[best.option])
    return list(start.outcomes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["quality", "report"])
    parser.add_argument("--work", type=Path, default=Path(".amoeba/cache/predictor"))
    parser.add_argument("--seconds", type=float, default=math.inf)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    if given.verb == "quality":
        quality(given.work, given.seconds, given.threads)
    else:
        report(given.work)


if __name__ == "__main__":
    main()
