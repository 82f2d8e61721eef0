"""Does the gate work: how often it calls equal artifacts regressed, and how often it finds what was planted.

    python -m benchmarks.gate                # in an onboarded workspace, on a machine with nothing else to do: an hour
    python -m benchmarks.gate --rounds 24    # how it goes; fewer rounds are a wider interval

Times: rounds of the production package of a target: four times as it is, and twice with its runtime slowed by 5 and 10 %:
after every step of the model it waits, busily, for that share of the step's own time. Each run is a process of its own, in
turns, as `amoeba check` takes them. A gate looks at its rounds exactly as the command does, and the next gate of the same
two takes the rounds after those; each of the four is gated against each other, and the slowed ones against each of the
four, so that a run is in several gates, which are not independent of each other. `--work` keeps every round: a run that
was stopped goes on.

Answers: the same package, one whose 4 bits are rounded to nearest instead of on text, and ones of which one layer is damaged
by noise. Text and questions are drawn anew, with replacement, for every gate.

Beside it, on the same figures: the plain gate that fails where a mean is 5 % worse (accuracy: 3 points).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import combinations, product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _record
from benchmarks._planted import PLANTED, Answers, answers_of, slowed
from components.gate import Evidence, Figure, Margins, Pairs, Verdict, decide, overall
from components.progress import progress
from edge_targets._turns import Run, RunSettings, Timer, take_turns
from flows import tracking
from flows.bases import declared, parameters
from flows.check import Effort
from flows.evidence import Artifact
from registry import naming

SLOWER = (0, 0, 0, 0, 5, 10)
"""Percent by variant: what is gated, itself again and again, and slowed."""
_FIGURES = ("ttft_ms", "tpot_ms", "memory_mb")
_DRAWS = 200
_SEED = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="smollm2-135m")
    parser.add_argument("--target", default="x86_avx512")
    parser.add_argument(
        "--rounds", type=int, default=222, help="of every variant; six make a gate that is sure at once"
    )
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--work", type=Path, default=Path(".amoeba/cache/gate"))
    given = parser.parse_args()
    effort, margins = Effort.of(parameters()["gate"]), Margins(**parameters()["tolerances"])
    artifact = Artifact.pulled(tracking.store(), naming.package_model(given.base, given.target), "production")
    given.work.mkdir(parents=True, exist_ok=True)
    quality = answers_of(declared(given.base), artifact, given.work, given.threads)
    kept = given.work / f"{artifact.manifest.content_digest[:16]}.jsonl"
    settings = RunSettings(effort.runs, effort.new_tokens)
    taken = rounds(kept, artifact.folder, given.threads, settings, given.rounds)
    exact = quality["unchanged"].evidence()
    rows = [
        *(time_row(percent, taken, exact, effort, margins) for percent in sorted(set(SLOWER))),
        *(answer_row(name, quality["unchanged"], quality[name], effort, margins) for name in PLANTED),
    ]
    _record.table(tuple(rows[0]), [list(row.values()) for row in rows])
    _record.keep(
        "gate",
        {
            "target": given.target,
            "threads": given.threads,
            "rounds": len(taken),
            "effort": asdict(effort),
            "margins": asdict(margins),
            "rows": rows,
        },
    )


Round = Sequence[Run]
"""A run of each variant, in the order of `SLOWER`."""


def rounds(kept: Path, package: Path, threads: int, settings: RunSettings, wanted: int) -> list[Round]:
    """As many as are wanted; those that `kept` has are not taken again."""
    timers = [_timer(package, threads, settings, percent) for percent in SLOWER]
    lines = kept.read_text().splitlines() if kept.is_file() else []
    taken: list[Round] = [[Run(**run) for run in json.loads(line)] for line in lines]
    advance = progress("rounds")
    while len(taken) < wanted:
        variants = take_turns(timers, 2)
        for turn in range(2):
            taken.append([runs[turn] for runs in variants])
            with kept.open("a") as file:
                file.write(json.dumps([asdict(run) for run in taken[-1]]) + "\n")
        advance(min(wanted, len(taken)), wanted)
    return taken[:wanted]


def _timer(package: Path, threads: int, settings: RunSettings, percent: int) -> Timer:
    def timer() -> Run:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            return process.submit(slowed, package, threads, settings, percent).result()

    return timer


def time_row(percent: int, taken: Sequence[Round], exact: Evidence, effort: Effort, margins: Margins) -> dict[str, Any]:
    equal = [variant for variant, slower in enumerate(SLOWER) if not slower]
    pairs = combinations(equal, 2) if not percent else product(equal, [SLOWER.index(percent)])
    gates = [gate for pair in pairs for gate in _gates(taken, pair, exact, effort, margins)]
    needed = statistics.fmean(gate.pairs for gate in gates)
    plain = sum(gate.plainly_slower for gate in gates)
    what = f"{percent} % slower" if percent else "the same again"
    return _row(what, [gate.verdict for gate in gates], plain, f"{needed:.1f} pairs")


@dataclass(frozen=True)
class _Gate:
    verdict: Verdict
    pairs: int
    plainly_slower: bool


def _gates(
    taken: Sequence[Round], variants: tuple[int, int], exact: Evidence, effort: Effort, margins: Margins
) -> Iterator[_Gate]:
    """One after the other; one that might want more rounds than there are is left out."""
    first = 0
    while first + effort.pairs[-1] <= len(taken):
        gate = _gate(taken[first:], variants, exact, effort, margins)
        yield gate
        first += gate.pairs


def _gate(
    taken: Sequence[Round], variants: tuple[int, int], exact: Evidence, effort: Effort, margins: Margins
) -> _Gate:
    looked = []

    def look(undecided: set[Pairs] | None, *, pairs: int) -> tuple[Evidence, Evidence]:
        looked.append(pairs)
        older, newer = (_side(taken[:pairs], variant, exact) for variant in variants)
        return older, newer

    figures = decide([partial(look, pairs=pairs) for pairs in effort.pairs], margins, effort.level)
    return _Gate(overall(figures), looked[-1], _plainly_slower(taken[: effort.pairs[0]], variants))


def _side(taken: Sequence[Round], variant: int, exact: Evidence) -> Evidence:
    figures = {name: tuple(getattr(runs[variant], name) for runs in taken) for name in _FIGURES}
    return replace(exact, **figures)


def _plainly_slower(taken: Sequence[Round], variants: tuple[int, int]) -> bool:
    """What a gate on means says: a mean is more than 5 % above the other."""
    before, after = (
        [statistics.fmean(getattr(runs[variant], name) for runs in taken) for name in ("ttft_ms", "tpot_ms")]
        for variant in variants
    )
    return any(late > 1.05 * early for early, late in zip(before, after, strict=True))


def answer_row(what: str, before: Answers, after: Answers, effort: Effort, margins: Margins) -> dict[str, Any]:
    drawn = list(_draws(before, after, effort.questions[0]))
    verdicts, found_by_answers, plain = [], 0, 0
    for pair in drawn:
        figures = decide([lambda undecided, pair=pair: pair], margins, effort.level)  # type: ignore[misc]
        verdicts.append(overall(figures))
        found_by_answers += _named(figures, "accuracy").verdict == "regressed"
        plain += _plainly_worse(*pair)
    lost = 100 * (statistics.fmean(before.correct) - statistics.fmean(after.correct))
    ratio = float(np.exp(np.mean(after.nats) - np.mean(before.nats)))
    measured = f"{lost:+.1f} points, perplexity x{ratio:.3f}; by answers alone {found_by_answers / len(drawn):.0%}"
    return _row(what, verdicts, plain, measured)


def _draws(before: Answers, after: Answers, most: int) -> Iterator[tuple[Evidence, Evidence]]:
    """As many questions as a gate asks first, and all windows, with replacement: the same for both."""
    generator = np.random.default_rng(_SEED)
    asked = min(most, len(before.correct))
    for _ in range(_DRAWS):
        questions = generator.integers(len(before.correct), size=asked)
        windows = generator.integers(len(before.nats), size=len(before.nats))
        yield before.drawn(windows, questions), after.drawn(windows, questions)


def _plainly_worse(before: Evidence, after: Evidence) -> bool:
    lost = statistics.fmean(before.correct) - statistics.fmean(after.correct)
    return lost > 0.03 or float(np.exp(np.mean(after.nats) - np.mean(before.nats))) > 1.05


def _named(figures: Sequence[Figure], name: str) -> Figure:
    return next(figure for figure in figures if figure.name == name)


def _row(what: str, verdicts: Sequence[str], plain: int, measured: str) -> dict[str, Any]:
    gates = len(verdicts)
    shares = {verdict: f"{verdicts.count(verdict) / gates:.1%}" for verdict in ("regressed", "holds", "inconclusive")}
    return {"candidate": what, "gates": gates, **shares, "5 % on means": f"{plain / gates:.1%}", "measured": measured}


if __name__ == "__main__":
    main()
