from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from fixtures.tiny import make_model, write_base

import edge_targets
from components.data import save_evaluation
from components.evaluate import Question, asking_order, multiple_choice
from components.shape import Shape
from edge_targets.__main__ import main
from edge_targets._device import facts
from edge_targets._device.bench import host
from edge_targets._target import PackageError, PackageRequest
from edge_targets._turns import Start, Waiting, apart, take_turns


class Made:
    """An artifact that takes as long as the count of all generations so far, and notes its own in `taken`."""

    def __init__(self, index: int, taken: list[int]) -> None:
        self._index, self._taken = index, taken

    def once(self) -> tuple[float, float]:
        self._taken.append(self._index)
        return float(len(self._taken)), float(self._index)

    def memory_mb(self) -> float:
        return 1.0


def starts(count: int, taken: list[int], started: list[int] | None = None) -> list[Start]:
    @contextmanager
    def start(index: int) -> Iterator[Waiting]:
        if started is not None:
            started.append(index)
        yield Made(index, taken)

    return [partial(start, index) for index in range(count)]


def test_two_artifacts_warm_up_and_take_turns_never_one_twice_in_a_row() -> None:
    taken: list[int] = []
    runs = take_turns(starts(2, taken), rounds=2, runs=2)
    assert taken == [*(0, 1), *(0, 1, 0, 1), *(1, 0), *(1, 0, 1, 0)]
    assert [[run.tpot_ms for run in of_one] for of_one in runs] == [[0.0, 0.0], [1.0, 1.0]]
    assert [run.ttft_ms for run in runs[0]] == [(3 + 5) / 2, (10 + 12) / 2]


def test_what_grows_steadily_slower_is_the_same_for_all_that_are_loaded_at_once() -> None:
    runs = take_turns(starts(2, []), rounds=2, runs=2)
    assert len({sum(run.ttft_ms for run in of_one) for of_one in runs}) == 1


def test_processes_are_fresh_in_every_round_and_no_more_wait_than_may() -> None:
    started: list[int] = []
    runs = take_turns(starts(4, [], started), rounds=2, runs=1)
    assert started == [0, 1, 2, 3, 3, 2, 1, 0]
    assert [len(of_one) for of_one in runs] == [2, 2, 2, 2]


@pytest.mark.parametrize("artifacts", [3, 5])
def test_the_odd_one_of_a_list_does_not_generate_twice_in_a_row_either(artifacts: int) -> None:
    taken: list[int] = []
    take_turns(starts(artifacts, taken), rounds=2, runs=3)
    a_round = len(taken) // 2
    for one in (taken[:a_round], taken[a_round:]):
        assert all(earlier != later for earlier, later in pairwise(one))


@pytest.mark.parametrize("rounds", [0, 1, 3])
def test_rounds_that_favour_an_order_are_refused(rounds: int) -> None:
    with pytest.raises(ValueError, match=f"got {rounds}"):
        take_turns(starts(2, []), rounds, runs=1)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    checkpoint = write_base(tmp_path_factory.mktemp("checkpoint"), make_model())
    out = tmp_path_factory.mktemp("package")
    request = PackageRequest(checkpoint, Shape(4, 100), "int8", 64)
    return edge_targets.load("x86_avx512").package(request, out).folder


def test_every_run_is_a_process_of_its_own_and_keeps_nothing_of_this_one(package: Path) -> None:
    ballast = bytearray(600_000_000)
    ballast[::4096] = b"x" * len(ballast[::4096])
    (runs,) = take_turns([partial(apart, package, 1, 3)], rounds=2, runs=1)
    assert len(runs) == 2
    for run in runs:
        assert run.ttft_ms > 0 < run.tpot_ms
        assert 10 < run.memory_mb < 600


def test_a_package_that_does_not_load_says_so_from_its_process(package: Path, tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="is not a package"), apart(tmp_path, 1, 3) as waiting:
        waiting.once()


def test_one_token_is_no_time_per_token(package: Path) -> None:
    with pytest.raises(ValueError, match="1 tokens were written where 2"), apart(package, 1, 1) as waiting:
        waiting.once()


def test_turns_and_answers_are_verbs_whose_files_say_whose_figures_they_are(package: Path, tmp_path: Path) -> None:
    runs, answers = tmp_path / "runs.json", tmp_path / "answers.json"
    options = ["--rounds", "2", "--runs", "1", "--new-tokens", "3", "--threads", "1"]
    both = ["--package", str(package), "--package", str(package)]
    assert main(["turns", "x86_avx512", *both, *options, "--out", str(runs)]) == 0
    found = json.loads(runs.read_text())
    assert found["host"] == host()
    assert [len(taken) for taken in found["runs"]] == [2, 2]
    windows_WT = np.arange(2, 34, dtype=np.int32).reshape(2, 16)
    questions = tuple(Question("made", (index + 2, 5), ((3,), (4,)), (1, 1), 0) for index in range(5))
    save_evaluation(tmp_path, windows_WT, questions)
    parts = []
    for first, last in ((0, 2), (2, 9)):
        asked = ["--evaluation", str(tmp_path), "--first", str(first), "--last", str(last), "--threads", "1"]
        assert main(["quality", "x86_avx512", "--package", str(package), *asked, "--out", str(answers)]) == 0
        parts.append(json.loads(answers.read_text()))
    assert [len(part["nats"]) for part in parts] == [2, 0]
    logits = facts.load(package, 1).logits
    whole = multiple_choice(logits, [questions[index] for index in asking_order(5)])
    assert tuple(parts[0]["correct"] + parts[1]["correct"]) == whole.correct


def test_any_part_of_the_questions_has_its_share_of_each_task() -> None:
    order = asking_order(1000)
    assert sorted(order) == list(range(1000))
    assert asking_order(1000) == order
    assert 160 < sum(index < 500 for index in order[:400]) < 240
