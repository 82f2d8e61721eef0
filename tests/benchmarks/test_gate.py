from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from benchmarks._planted import Answers
from benchmarks._rounds import SLOWER, Round, read
from benchmarks.gate import answer_row, spread, time_row
from components.gate import Evidence, Margins
from edge_targets._turns import Run
from flows.effort import Effort

EFFORT = Effort(
    runs=5,
    new_tokens=32,
    pairs=(6, 12),
    questions=(400, 400),
    frontier_rounds=6,
    false_alarms_percent=2,
    misses_percent=5,
)
MARGINS = Margins(
    perplexity_percent=2,
    accuracy_points=2,
    latency_percent=5,
    memory_percent=10,
    frontier_percent=3,
    drift_percent=25,
)
EXACT = Evidence(nats=(3.0, 3.1, 2.9), correct=(True, False) * 200)


@pytest.fixture
def taken() -> list[Round]:
    """Rounds of a machine that drifts by a tenth between them, and differs by a hundredth within."""
    random = np.random.default_rng(0)

    def run(slower: int, drift: float) -> Run:
        ttft, tpot = (1 + slower / 100) * drift * np.exp(random.normal(0, 0.01, 2))
        return Run(150 * float(ttft), 7 * float(tpot), 450.0)

    return [
        [(run(0, drift), run(slower, drift)) for slower in SLOWER]
        for drift in np.exp(random.normal(0, 0.1, 24)).tolist()
    ]


def test_what_was_slowed_is_found_and_what_is_the_same_is_not(taken: list[Round]) -> None:
    same, slower = (time_row(percent, taken, 40, EXACT, EFFORT, MARGINS) for percent in (0, 10))
    assert (same["regressed"], same["holds"]) == ("0.0%", "100.0%")
    assert slower["regressed"] == "100.0%"
    assert float(slower["measured"].rpartition("x")[2]) == pytest.approx(1.1, abs=0.02)


def test_what_disturbs_a_round_is_not_in_the_ratio_of_two(taken: list[Round]) -> None:
    found = spread(taken)["tpot_ms"]
    assert found["one_artifact_percent"] == pytest.approx(10, abs=3)
    assert found["ratio_of_two_percent"] == pytest.approx(1.4, abs=0.4)


def test_lost_answers_are_found_and_the_same_answers_are_not(taken: list[Round]) -> None:
    random = np.random.default_rng(1)
    correct = random.random(1000) < 0.6
    before = Answers(np.full(8, 3.0), correct)
    worse = Answers(np.full(8, 3.0), correct & (random.random(1000) > 0.15))
    found = answer_row("worse", before, worse, taken, 40, EFFORT, MARGINS)
    lost = 100 * (correct.mean() - worse.correct.mean())
    assert (found["regressed"], found["measured"].split()[0]) == ("100.0%", f"{-lost:+.1f}")
    assert answer_row("the same", before, before, taken, 40, EFFORT, MARGINS)["holds"] == "100.0%"


def test_rounds_are_read_as_they_were_kept(taken: list[Round], tmp_path: Path) -> None:
    kept = tmp_path / "rounds.jsonl"
    assert read(kept) == []
    kept.write_text("".join(json.dumps([[asdict(run) for run in pair] for pair in pairs]) + "\n" for pairs in taken))
    assert read(kept) == taken
