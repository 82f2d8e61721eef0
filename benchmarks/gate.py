"""Does the gate work: how often it calls equal artifacts regressed, and how often it finds what was planted.

    python -m benchmarks.gate                # in an onboarded workspace, on a machine with nothing else to do: half an hour
    python -m benchmarks.gate --rounds 24    # how it goes

Times: rounds of the production package of a target against itself, and against itself slowed by 5 and 10 %: after every
step of the model its runtime waits, busily, for that share of the step's own time. Rounds are taken as `amoeba check` takes
them; `--work` keeps every one, and a run that was stopped goes on. Every gate draws from the pairs of rounds without
replacement, and looks at them exactly as the command does. Gates share rounds: their number makes the rates smooth, the
rounds make them sure.

Answers: the same package, one whose 4 bits are rounded to nearest instead of on text, and ones of which one layer is damaged
by noise. Text and questions are drawn anew, with replacement, for every gate.

Beside it, on the same figures: the plain gate that fails where a mean is 5 % worse (accuracy: 3 points).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _record
from benchmarks._planted import PLANTED, Answers, answers_of
from benchmarks._rounds import SLOWER, Round, read
from components.gate import Evidence, Figure, Margins, Pairs, Verdict, decide, overall
from edge_targets._turns import Run
from flows import tracking
from flows.bases import declared, parameters
from flows.effort import Effort, margins_of
from flows.evidence import Artifact
from registry import naming

_TIMES = ("ttft_ms", "tpot_ms")
_FIGURES = (*_TIMES, "memory_mb")
_SEED = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="smollm2-135m")
    parser.add_argument("--target", default="x86_avx512")
    parser.add_argument("--rounds", type=int, default=60, help="of every variant, measured")
    parser.add_argument("--gates", type=int, default=1000, help="of each kind, drawn")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--work", type=Path, default=Path(".amoeba/cache/gate"))
    given = parser.parse_args()
    effort, margins = Effort.of(parameters()["gate"]), margins_of(parameters()["tolerances"])
    artifact = Artifact.pulled(tracking.store(), naming.package_model(given.base, given.target), "production")
    given.work.mkdir(parents=True, exist_ok=True)
    quality = answers_of(declared(given.base), artifact, given.work, given.threads)
    taken = rounds(artifact, given.work, given.threads, effort, given.rounds)
    exact = quality["unchanged"].evidence()
    rows = [
        *(time_row(percent, taken, given.gates, exact, effort, margins) for percent in SLOWER),
        *(
            answer_row(name, quality["unchanged"], quality[name], taken, given.gates, effort, margins)
            for name in PLANTED
        ),
    ]
    _record.table(tuple(rows[0]), [list(row.values()) for row in rows])
    _record.keep(
        "gate",
        {
            "target": given.target,
            "threads": given.threads,
            "rounds": len(taken),
            "spread": spread(taken),
            "effort": asdict(effort),
            "margins": asdict(margins),
            "rows": rows,
        },
    )


def rounds(artifact: Artifact, work: Path, threads: int, effort: Effort, wanted: int) -> list[Round]:
    """As many as are wanted; those that `work` has are not taken again."""
    kept = work / f"{artifact.manifest.content_digest[:16]}-{effort.runs}x{effort.new_tokens}.jsonl"
    numbers = {"threads": threads, "new-tokens": effort.new_tokens, "runs": effort.runs, "rounds": wanted}
    options = [part for name, value in numbers.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "benchmarks._rounds", "--package", str(artifact.folder), "--kept", str(kept)]
    subprocess.run([*command, *options], check=True)
    return read(kept)[:wanted]


def time_row(
    percent: int, taken: Sequence[Round], gates: int, exact: Evidence, effort: Effort, margins: Margins
) -> dict[str, Any]:
    generator = np.random.default_rng(_SEED)
    sides = [pairs[SLOWER.index(percent)] for pairs in taken]
    verdicts, plain, used = [], 0, []
    for _ in range(gates):
        pairs = generator.permutation(len(sides) // 2)[: effort.pairs[-1] // 2]
        drawn = [sides[2 * pair + turn] for pair in pairs for turn in (0, 1)]
        verdict, looked = _gate(drawn, exact, effort, margins)
        verdicts.append(verdict)
        used.append(looked)
        plain += _plainly_slower(drawn[: effort.pairs[0]])
    what = f"{percent} % slower" if percent else "the same again"
    ratio = np.exp(np.mean([np.log(newer.tpot_ms / older.tpot_ms) for older, newer in sides]))
    return _row(what, verdicts, plain, f"{statistics.fmean(used):.1f} rounds; tokens took x{ratio:.3f}")


def _gate(drawn: Sequence[tuple[Run, Run]], exact: Evidence, effort: Effort, margins: Margins) -> tuple[Verdict, int]:
    """What it says, and the rounds it looked at."""
    looked = []

    def look(undecided: set[Pairs] | None, *, pairs: int) -> tuple[Evidence, Evidence]:
        looked.append(pairs)
        older, newer = (_side(runs, exact) for runs in zip(*drawn[:pairs], strict=True))
        return older, newer

    figures = decide([partial(look, pairs=pairs) for pairs in effort.pairs], margins, effort.levels)
    return overall(figures), looked[-1]


def spread(taken: Sequence[Round]) -> dict[str, dict[str, float]]:
    """Standard deviations in percent: of one artifact's rounds, and of the ratio of two that took turns within them."""
    found = {}
    for name in _FIGURES:
        logs_R2 = np.log([[getattr(run, name) for run in pairs[SLOWER.index(0)]] for pairs in taken])
        found[name] = {
            "one_artifact_percent": 100 * float(logs_R2.std(0, ddof=1).mean()),
            "ratio_of_two_percent": 100 * float((logs_R2[:, 1] - logs_R2[:, 0]).std(ddof=1)),
        }
    return found


def _side(runs: Sequence[Run], exact: Evidence) -> Evidence:
    return replace(exact, **{name: tuple(getattr(run, name) for run in runs) for name in _FIGURES})


def _plainly_slower(drawn: Sequence[tuple[Run, Run]]) -> bool:
    """What a gate on means says: a mean is more than 5 % above the other."""
    older, newer = zip(*drawn, strict=True)
    means = [[statistics.fmean(getattr(run, name) for run in side) for side in (older, newer)] for name in _TIMES]
    return any(late > 1.05 * early for early, late in means)


def answer_row(
    what: str,
    before: Answers,
    after: Answers,
    taken: Sequence[Round],
    gates: int,
    effort: Effort,
    margins: Margins,
) -> dict[str, Any]:
    """Beside the answers stand the times of the same package, so that a gate corrects for as many figures as the command does."""
    drawn = list(_draws(before, after, effort.questions[0], gates))
    generator, verdicts, found_by_answers, plain = np.random.default_rng(_SEED), [], 0, 0
    for answers in drawn:
        rounds = generator.choice(len(taken), effort.pairs[0], replace=False)
        sides = zip(*(taken[index][SLOWER.index(0)] for index in rounds), strict=True)
        pair = tuple(_side(runs, side) for runs, side in zip(sides, answers, strict=True))
        figures = decide([lambda undecided, pair=pair: pair], margins, effort.levels)  # type: ignore[misc]
        verdicts.append(overall(figures))
        found_by_answers += _named(figures, "accuracy").verdict == "regressed"
        plain += _plainly_worse(*answers)
    gained = 100 * (statistics.fmean(after.correct) - statistics.fmean(before.correct))
    ratio = float(np.exp(np.mean(after.nats) - np.mean(before.nats)))
    measured = f"{gained:+.1f} points of accuracy, perplexity x{ratio:.3f}; by answers alone {found_by_answers / len(drawn):.0%}"
    return _row(what, verdicts, plain, measured)


def _draws(before: Answers, after: Answers, most: int, gates: int) -> Iterator[tuple[Evidence, Evidence]]:
    """As many questions as a gate asks first, and all windows, with replacement: the same for both."""
    generator = np.random.default_rng(_SEED)
    asked = min(most, len(before.correct))
    for _ in range(gates):
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
