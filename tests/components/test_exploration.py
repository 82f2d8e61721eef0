"""Which candidate is measured next, on a made-up supernet and machine where every candidate can be measured."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace

import pytest
from fixtures.smollm import BITS, CONFIG

from components.calibration import Run
from components.exploration import Exploration, Option, Outcome, Prior
from components.frontier import hypervolume
from components.latency import Load, Weights
from components.quality import Outline, features

RATIOS = {"int8": 1.01, "int4": 1.04}
FULL = Outline("d30w100", 0.0, 0.0)


def world(seed: int, shapes: int = 12) -> tuple[Exploration, dict[Option, Outcome]]:
    """Options of random shapes in two quantizations, and what each of them would measure."""
    draw = random.Random(seed)
    options, truth, known = [], {}, []
    for number in range(shapes):
        depth, neurons = (30, 1536) if number == 0 else (draw.randrange(16, 31), 64 * draw.randrange(10, 25))
        removed = 1 - depth * (1 + 4 * neurons / 1536) / 150
        outline = Outline(f"s{number}", removed * draw.uniform(4, 7), removed) if number else FULL
        loss = 3 + 0.3 * outline.scores + removed + draw.gauss(0, 0.1) * removed
        if number % 2 == 0:
            known.append((features(outline, None, evaluation=False), math.exp(loss)))
        weights = Weights.of(CONFIG, [(True, neurons)] * depth)
        for name, bits in BITS.items():
            option = Option(name, outline, Load.of(weights, bits, 9.0, 4096))
            tpot_ms = (0.06 * option.load.read_mb + 0.05 * depth) * (1.3 if name == "int4" else 1.0)
            run = Run(option.load, 10 * tpot_ms, tpot_ms * (1 + draw.gauss(0, 0.02)), option.load.size_mb + 200)
            perplexity = math.exp(loss - 0.3 + math.log(RATIOS[name]) * draw.uniform(0.5, 2))
            options.append(option)
            truth[option] = Outcome(option, perplexity, run)
    known.append((features(FULL, None, evaluation=True), math.exp(2.7)))
    return Exploration(tuple(options), Prior(known, RATIOS, 36.0, 244.0)), truth


def explored(start: Exploration, truth: dict[Option, Outcome], points: int) -> Exploration:
    for _ in range(points):
        best = start.next()
        if best is None:
            break
        start = start.after(truth[best.option])
    return start


def area(outcomes: list[Outcome]) -> float:
    """Below twice the full shape's time, and four times its perplexity: about 11 ms and 15."""
    return hypervolume([one.place for one in outcomes], (math.log(22), math.log(60)))


def test_the_area_of_points_is_that_of_the_cells_of_a_fine_grid_that_they_dominate() -> None:
    draw = random.Random(0)
    points = [(draw.random(), draw.random()) for _ in range(8)]
    cells = [((x + 0.5) / 400, (y + 0.5) / 400) for x, y in itertools.product(range(400), repeat=2)]
    dominated = sum(any(a <= x and b <= y for a, b in points) for x, y in cells) / 400**2
    assert hypervolume(points, (1.0, 1.0)) == pytest.approx(dominated, abs=0.01)
    assert hypervolume([(1.5, 0.0), (0.0, 1.0)], (1.0, 1.0)) == 0


@pytest.mark.parametrize("seed", range(6))
def test_a_third_of_all_candidates_gives_nearly_the_frontier_of_all(seed: int) -> None:
    start, truth = world(seed)
    every = area(list(truth.values()))
    found = area(list(explored(start, truth, 8).outcomes))
    assert found > 0.97 * every
    draws = [area(random.Random(number).sample(list(truth.values()), 8)) for number in range(200)]
    assert found > sorted(draws)[180]


def test_a_search_that_goes_on_measures_what_one_that_was_never_stopped_measures() -> None:
    start, truth = world(1)
    stopped = explored(start, truth, 3)
    assert explored(stopped, truth, 5).outcomes == explored(start, truth, 8).outcomes


def test_everything_is_measured_once_and_then_nothing_is_left() -> None:
    start, truth = world(2, shapes=4)
    done = explored(start, truth, 100)
    assert sorted(one.option.name for one in done.outcomes) == sorted(option.name for option in start.options)
    assert done.next() is None


def test_a_quantization_that_is_refused_is_tried_less() -> None:
    def tried(refuse: str | None) -> int:
        found = 0
        for seed in range(6):
            start, truth = world(seed)
            known = {
                option: replace(outcome, refused="too far from float") if option.quantization == refuse else outcome
                for option, outcome in truth.items()
            }
            found += sum(one.option.quantization == "int4" for one in explored(start, known, 8).outcomes)
        return found

    assert tried("int4") < tried(None) < tried("int8")


@pytest.mark.parametrize("seed", range(3))
def test_a_quantization_that_cannot_be_built_gives_way_to_another_as_one_that_is_refused_does(seed: int) -> None:
    """No measurement tells of a failure: after it everything is as it was, but for the chance of what failed."""
    exploration, truth = world(seed)
    tried = []
    while len(tried) < 8 and (best := exploration.next()) is not None:
        tried.append(best.option)
        if best.option.quantization == "int4":
            exploration = replace(exploration, failed=exploration.failed | {best.option})
        else:
            exploration = exploration.after(truth[best.option])
    assert len(set(tried)) == 8
    assert {option.quantization for option in tried[:4]} == {"int4", "int8"}
    assert {option.quantization for option in exploration.failed} == {"int4"}
    assert len(exploration.failed) < 6


def test_a_quantization_of_which_nothing_can_be_built_is_forecast_nevertheless() -> None:
    start, truth = world(3, shapes=4)
    failed = frozenset(option for option in start.options if option.quantization == "int4")
    done = explored(replace(start, failed=failed), truth, 100)
    assert {one.option for one in done.outcomes} == set(start.options) - failed
    assert {done.forecast(option).cost.machine for option in failed} == {"host"}


def test_what_is_refused_adds_nothing_to_the_frontier_but_teaches() -> None:
    start, truth = world(4)
    best = start.next()
    assert best is not None
    after = start.after(replace(truth[best.option], refused="it is too far from float"))
    assert after.area == 0
    assert {one.cost.machine for one in start.forecasts} == {"device"}
    assert {one.cost.machine for one in after.forecasts} == {"host"}


def test_what_would_not_pass_verification_is_never_next() -> None:
    start, truth = world(5)
    options = tuple(replace(one, unfit="too coarse") if one.quantization == "int4" else one for one in start.options)
    done = explored(replace(start, options=options), truth, 100)
    assert {one.option.quantization for one in done.outcomes} == {"int8"}


def test_a_held_out_forecast_does_not_know_the_measurement() -> None:
    start, truth = world(0)
    done = explored(start, truth, 6)
    one = done.outcomes[-1]
    assert done.without(one.option).outcomes == done.outcomes[:-1]
    assert abs(done.forecast(one.option).perplexity / one.perplexity - 1) < 0.02
    assert done.without(one.option).forecast(one.option).perplexity != done.forecast(one.option).perplexity


@pytest.mark.parametrize("seed", range(4))
def test_nearly_all_that_is_built_ahead_is_measured(seed: int) -> None:
    exploration, truth = world(seed)
    built: set[Option] = set()
    times = 0
    for left in range(8, 0, -1):
        best = exploration.next()
        assert best is not None
        if best.option not in built:
            ahead = exploration.likely(min(left, 2))
            assert ahead[0] == best
            built |= {one.option for one in ahead}
            times += 1
        exploration = exploration.after(truth[best.option])
    assert len(built) <= 10
    assert times <= 6


def test_what_is_likely_next_is_nothing_once_all_is_measured() -> None:
    exploration, truth = world(0, shapes=2)
    assert len(exploration.likely(10)) == len(truth)
    assert explored(exploration, truth, 10).likely(10) == ()
