"""Packages of every target beside what a user would take instead: the same model, machine, text and run.

    python -m benchmarks.runtimes                              # in an onboarded workspace, on a machine with nothing else to do
    python -m benchmarks.runtimes --quick                      # three rounds of eight tokens: does everything run?
    python -m benchmarks.runtimes --only x86_avx512 --only llamacpp

The full base goes through every contender (`benchmarks/contenders`), and the shapes chosen for 80 % and 53 % of the
block parameters through ours. Each contender is built and judged once, in a process of its own under its own
environment's Python; that is kept under `--work` and a second run goes on from there. Speed is taken anew, of all at
once: every contender is loaded and waits, and they generate in turns, A B C … A B C …, so a machine that slows down
slows all of them. Medians are of rounds; ratios have a bootstrap interval over rounds. `--checkpoint`, `--subnet` and
`--data` name folders where there is no workspace.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import _record
from benchmarks._bench import Bench
from benchmarks._jobs import Job, jobs
from benchmarks._race import comparisons, passage_tokens, race
from benchmarks._subnets import FULL, checkpoints
from components.data import load_evaluation
from components.progress import say
from edge_targets._device.bench import prompt
from edge_targets._device.text import Text

_HEADER = (
    *("what", "shape", "MB", "build s", "build peak MB", "perplexity", "top-1", "KL"),
    *("TTFT 128 ms", "TTFT 512 ms", "ms/token", "tokens/s", "load s", "peak MB", "note"),
)


def row(job: Job) -> list[Any]:
    known = job.figures
    tpot = job.median("tpot_ms")
    columns = [known.get(name) for name in ("size_mb", "build_s", "build_peak_mb", "perplexity", "top_1", "kl")]
    times = [job.median("ttft_128_ms"), job.median("ttft_512_ms"), tpot, 1000 / tpot if tpot else None]
    note = job.failed or (f"not run here: {job.cannot_run}" if job.cannot_run else "")
    values = [*columns, *times, known.get("load_s"), known.get("peak_mb")]
    return [job.contender.title, job.shape, *map(_shown, values), note]


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], help="part of a contender's name; may be given again")
    parser.add_argument("--quick", action="store_true", help="see that everything runs; the figures mean little")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--checkpoint", type=Path, help="the float base as a Hugging Face folder; the workspace's")
    parser.add_argument("--subnet", action="append", default=[], metavar="PERCENT=DIR", help="a float subnet's folder")
    parser.add_argument("--data", type=Path, help="a folder with evaluation text; the workspace's")
    parser.add_argument("--work", type=Path, default=Path(".amoeba/cache/runtimes"))
    given = parser.parse_args()
    rounds, new_tokens = (3, 8) if given.quick else (given.rounds, given.new_tokens)
    models, data = checkpoints(given.checkpoint, given.subnet, given.data, given.work)
    windows = load_evaluation(data)[0].tolist()[: 2 if given.quick else None]
    bench = Bench(given.work, windows, given.threads, data)
    chosen = jobs(models, given.only)
    for number, job in enumerate(chosen, 1):
        say(f"{number}/{len(chosen)} {job.name}: building and judging")
        with job.keeping_its_failure():
            bench.build(job)
            if job.cannot_run is None:
                bench.judge(job)
    load_before = os.getloadavg()[0]
    running = [job for job in chosen if job.cannot_run is None and not job.failed]
    race(bench, running, prompt(Text(models[FULL]), passage_tokens(rounds)), rounds, new_tokens)
    promised = list(comparisons(chosen))
    _record.table(_HEADER, [row(job) for job in chosen])
    print()
    names = ("first", "second", "times as fast (95 %)", "wanted", "held")
    _record.table(names, [_promise(one) for one in promised])
    facts = {
        "threads": given.threads,
        "rounds": rounds,
        "new_tokens": new_tokens,
        "quick": given.quick,
        "load_before": load_before,
        "contenders": [_facts(job) for job in chosen],
        "comparisons": promised,
    }
    if given.quick or given.only:
        say("not kept in benchmarks/results: only a whole run is")
    else:
        _record.keep("runtimes", facts)


def _promise(one: Mapping[str, Any]) -> list[Any]:
    found = one["times_as_fast"]
    shown = f"{found['value']:.2f} ({found['low']:.2f}-{found['high']:.2f})"
    return [one["first"], one["second"], shown, one["wanted"], "yes" if one["held"] else "no"]


def _facts(job: Job) -> dict[str, Any]:
    facts = {"name": job.name, "title": job.contender.title, "shape": job.shape, **job.figures, "rounds": job.rounds}
    return facts | ({"not_run_here": job.cannot_run} if job.cannot_run else {})


if __name__ == "__main__":
    main()
