"""How well time and memory are predicted from a few runs: every shape and quantization measured, most of them held out.

    python -m benchmarks.predictor build        # packages of a dozen shapes, int8 and int4, in an onboarded workspace
    python -m benchmarks.predictor memory       # of each in a process of its own
    python -m benchmarks.predictor time         # all loaded at once and timed in turns for --seconds; run it several times
    python -m benchmarks.predictor report       # calibrate on a few, predict the others

Speed does not depend on the values of weights, so four bits are rounded to the nearest here: shapes cut as they are when
they are published, without the minutes of calibrated rounding.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import spearmanr

import edge_targets
from benchmarks import _record
from components.calibration import Run, calibrate
from components.checkpoint import layers_of
from components.latency import PROMPT_TOKENS, Cost, Load, Weights
from components.progress import say
from edge_targets import _onnx
from edge_targets._device import facts
from edge_targets._device.bench import prompt
from edge_targets._device.text import Text

if TYPE_CHECKING:
    from components.quality import Outline
    from edge_targets._device.runner import Runner

QUANTIZATIONS = {one.name: one for one in _onnx.QUANTIZATIONS if one.name in ("int8", "int4")}
GRID = (
    "d30w100",
    "d30w75",
    "d30w50",
    "d27w75",
    "d26w100",
    "d24w100",
    "d24w50",
    "d22w62",
    "d20w100",
    "d20w75",
    "d20w50",
)
"""Homogeneous shapes; the supernet's mixed ones are added."""
CALIBRATED_ON = (
    ("d30w100",),
    ("d30w100", "d20w50", "d30w50"),
    ("d30w100", "d20w50", "d30w50", "d20w100"),
    ("d30w100", "d20w50", "d30w50", "d20w100", "d24w100"),
)
"""The corners of the grid, chosen before anything was measured."""
CONTEXT = 4096
NEW_TOKENS = 32
MOST_OTHERS = 0.08
"""Cores that other processes may use during a round that counts."""
_FIGURES = ("tpot_ms", "ttft_ms", "memory_mb")


@dataclass(frozen=True)
class Package:
    """What was measured of one package."""

    shape: str
    quantization: str
    run: Run
    samples: Mapping[str, tuple[float, ...]]
    """Times of every round at the pace of the round at the middle."""
    log_perplexity: float
    """What the supernet's own measurements say of the shape, times what the quantization costs."""


def folders(work: Path) -> list[Path]:
    return sorted(folder for folder in work.iterdir() if (folder / "package.json").is_file())


def build(work: Path) -> None:
    """Cut every shape and write its packages, those that are not there yet."""
    import torch

    from benchmarks._workspace import Workspace
    from components.shape import parse_shape
    from components.subnet import extract
    from components.supernet import Supernet

    workspace = Workspace.of()
    supernet = Supernet.load(workspace.supernet_folder, workspace.model(torch.float32))
    for shape in (*map(parse_shape, GRID), *supernet.space.mixed):
        missing = [name for name in QUANTIZATIONS if not (work / f"{shape}-{name}" / "package.json").is_file()]
        if missing:
            say(f"{shape}: {', '.join(missing)}")
            checkpoint = work / "checkpoint"
            shutil.rmtree(checkpoint, ignore_errors=True)
            extract(supernet, shape).save(checkpoint, workspace.base, "# for a benchmark\n")
            for name in missing:
                _package(checkpoint, str(shape), name, work / f"{shape}-{name}")
    shutil.rmtree(work / "checkpoint", ignore_errors=True)


def _package(checkpoint: Path, shape: str, quantization: str, out: Path) -> None:
    from components.shape import parse_shape
    from edge_targets import _package
    from edge_targets._onnx_decoder import read_decoder
    from edge_targets._onnx_files import weights_of, write_model
    from edge_targets._onnx_graph import build as graph
    from edge_targets._target import PackageRequest

    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    with weights_of(checkpoint) as weights:
        files = write_model(graph(read_decoder(checkpoint, CONTEXT), _onnx.STORAGE[quantization], weights), out)
    request = PackageRequest(checkpoint, parse_shape(shape), quantization, CONTEXT)
    _package.complete(
        request, out, target="x86_avx512", runtime="onnxruntime", runner="onnxruntime_runner", model_files=files
    )


def memory(work: Path, threads: int) -> None:
    """The peak of a process that does nothing but run one package, for every package that has none yet."""
    for folder in folders(work):
        out = work / f"{folder.name}-bench.json"
        if not out.is_file():
            command = [sys.executable, str(folder / "bench.py"), "--runs", "3", "--new-tokens", str(NEW_TOKENS)]
            command += ["--threads", str(threads), "--out", str(out)]
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
            say(out.name)


def race(work: Path, seconds: float, threads: int) -> None:
    """Rounds in which every package generates once, in an order of the round's own, added to those that are kept.

    A machine that slows down slows all packages of a round; a round beside which other processes were busy is thrown away.
    """
    ends = time.monotonic() + seconds
    order = folders(work)
    random.shuffle(order)  # what is loaded first is not where a process' memory is later
    runners = {folder.name: facts.load(folder, threads) for folder in order}
    passage = prompt(Text(order[0]), PROMPT_TOKENS)
    kept = work / "rounds.json"
    rounds = json.loads(kept.read_text()) if kept.is_file() else []
    names = list(runners)
    _round(runners, names, passage)
    while time.monotonic() < ends:
        random.shuffle(names)
        began, before = time.monotonic(), _others_s()
        found = _round(runners, names, passage)
        others = (_others_s() - before) / (time.monotonic() - began)
        if others <= MOST_OTHERS:
            rounds.append(found)
            kept.write_text(json.dumps(rounds))
        say(f"{len(rounds)} rounds; other processes used {others:.2f} cores in the last")


def _round(runners: Mapping[str, Runner], names: Sequence[str], passage: list[int]) -> dict[str, dict[str, float]]:
    figures = {}
    for name in names:
        started = time.perf_counter()
        stamps = [time.perf_counter() for _ in runners[name].generate(passage, NEW_TOKENS, to_the_end=True)]
        tpot_ms = (stamps[-1] - stamps[0]) * 1000 / (len(stamps) - 1)
        figures[name] = {"ttft_ms": (stamps[0] - started) * 1000, "tpot_ms": tpot_ms}
    return figures


def _others_s() -> float:
    """Seconds of processor that all other processes of this machine have used."""
    user, nice, system = map(int, Path("/proc/stat").read_text().split(maxsplit=4)[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK") - time.process_time()


def packages(work: Path) -> list[Package]:
    """Every package with its times relative to its rounds, at the pace of the round at the middle."""
    rounds = json.loads((work / "rounds.json").read_text())
    pace = {name: [median(one[name] for one in each.values()) for each in rounds] for name in ("ttft_ms", "tpot_ms")}
    quality, found = _qualities(), []
    for folder in folders(work):
        shape, quantization = folder.name.rsplit("-", 1)
        config = json.loads((folder / "config.json").read_text())
        bits = QUANTIZATIONS[quantization]
        load = Load.of(Weights.of(config, layers_of(config)), bits.linear_bits, bits.embedding_bits, CONTEXT)
        samples = {
            name: tuple(each[folder.name][name] * median(paces) / own for each, own in zip(rounds, paces, strict=True))
            for name, paces in pace.items()
        }
        peak_mb = json.loads((work / f"{folder.name}-bench.json").read_text())["latency"]["peak_memory_mb"]
        run = Run(load, median(samples["ttft_ms"]), median(samples["tpot_ms"]), peak_mb)
        found.append(Package(shape, quantization, run, samples, quality[shape] + math.log(bits.perplexity_ratio)))
    return found


def _qualities() -> dict[str, float]:
    """Expected logarithm of validation perplexity of every shape."""
    from components.quality import Quality, features

    saved, known = outlines()
    by_shape = {name: features(outline, None, evaluation=False) for name, outline in known.items()}
    quality = Quality([(by_shape[name], value) for name, value in saved["validation_perplexity"].items()], {})
    return {name: quality.predict(of)[0] for name, of in by_shape.items()}


def outlines() -> tuple[dict[str, Any], dict[str, Outline]]:
    """What the supernet says of itself, and the outlines of all its shapes and of those measured here."""
    from benchmarks._workspace import Workspace
    from components.quality import Outline
    from components.shape import parse_shape

    workspace = Workspace.of()
    saved, selection = json.loads((workspace.supernet_folder / "supernet.json").read_text()), workspace.selection()
    neurons = json.loads((workspace.base.folder / "config.json").read_text())["intermediate_size"]
    names = {*GRID, *saved["validation_perplexity"]}
    cuts = {name: selection.cut(parse_shape(name)) for name in names}
    return saved, {name: Outline.of(name, cut, selection.blocks, neurons) for name, cut in cuts.items()}


def report(work: Path) -> None:
    known = packages(work)
    rows = [_row(known, shapes) for shapes in CALIBRATED_ON]
    spreads = [np.subtract(*np.quantile(one.samples["tpot_ms"], (0.75, 0.25))) / one.run.tpot_ms for one in known]
    rounds = len(known[0].samples["tpot_ms"])
    halves = [np.array([median(one.samples["tpot_ms"][half]) for one in known]) for half in _halves(rounds)]
    errors = np.abs(halves[0] / halves[1] - 1) * 100
    repeat = {
        "mape_percent": float(errors.mean()),
        "most_percent": float(errors.max()),
        "rank": float(spearmanr(*halves).statistic),
    }
    judged = [f"{what}, {name}" for name in _FIGURES for what in ("MAPE %", "rank")]
    header = ["runs a quantization", "held out", *judged]
    header += ["over budget, mean %", "over budget, most %", "regret, mean nats", "regret, most nats"]
    _record.table(header, rows)
    print(
        f"{len(known)} packages, {rounds} rounds, half of a package's within {median(spreads):.1%} of its time per token; "
        f"their first half predicts the second within {repeat['mape_percent']:.1f} % ({repeat['most_percent']:.0f} % at most), "
        f"rank {repeat['rank']:.3f}"
    )
    each = [{**asdict(one), "run": {name: getattr(one.run, name) for name in _FIGURES}} for one in known]
    _record.keep(
        "predictor",
        {
            "header": header,
            "rows": rows,
            "calibrated_on": CALIBRATED_ON,
            "rounds": rounds,
            "spread": median(spreads),
            "first_half_to_second": repeat,
            "packages": each,
        },
    )


def _halves(rounds: int) -> tuple[slice, slice]:
    """Of the rounds in their order: of two sessions each is one, so that what differs between sessions shows."""
    return slice(rounds // 2), slice(rounds // 2, rounds)


def _row(known: Sequence[Package], shapes: Sequence[str]) -> list[Any]:
    """Calibrated on the packages of `shapes`, judged on all others."""
    device = edge_targets.load("x86_avx512").device
    runs = {
        name: [one.run for one in known if one.shape in shapes and one.quantization == name] for name in QUANTIZATIONS
    }
    calibrations = calibrate(runs, device.bandwidth_gb_s, device.int8_gops)
    held_out = [one for one in known if one.shape not in shapes]
    costs = [calibrations[one.quantization].predict(one.run.load) for one in held_out]
    row: list[Any] = [len(shapes), len(held_out)]
    for name in _FIGURES:
        predicted = np.array([getattr(cost, name) for cost in costs])
        measured = np.array([getattr(one.run, name) for one in held_out])
        row += [float(np.abs(predicted / measured - 1).mean() * 100), float(spearmanr(predicted, measured).statistic)]
    return [*row, *_picks(held_out, costs)]


def _picks(held_out: Sequence[Package], costs: Sequence[Cost]) -> list[float]:
    """For budgets at each time per token that was measured: by how much the pick is over it, and what it loses in quality.

    The pick is of least expected perplexity among those predicted to be within the budget; the best is the same with what was
    measured. A pick that is worse than the best loses nats; one that is over the budget and better loses none.
    """
    over, lost = [], []
    for budget in sorted(one.run.tpot_ms for one in held_out):
        fits = [one for one, cost in zip(held_out, costs, strict=True) if cost.tpot_ms <= budget]
        pick = min(fits, key=lambda one: one.log_perplexity, default=None)
        best = min((one for one in held_out if one.run.tpot_ms <= budget), key=lambda one: one.log_perplexity)
        if pick is not None:
            over.append(100 * max(0.0, pick.run.tpot_ms / budget - 1))
            lost.append(max(0.0, pick.log_perplexity - best.log_perplexity))
    return [float(np.mean(over)), max(over), float(np.mean(lost)), max(lost)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["build", "memory", "time", "report"])
    parser.add_argument("--work", type=Path, default=Path(".amoeba/cache/predictor"))
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    if given.verb == "build":
        build(given.work)
    elif given.verb == "memory":
        memory(given.work, given.threads)
    elif given.verb == "time":
        race(given.work, given.seconds, given.threads)
    else:
        report(given.work)


if __name__ == "__main__":
    main()
