import itertools
import random
from dataclasses import replace

import pytest

from components.frontier import Point, Tolerances, compare, undominated

POINT = Point("d24w75", "int8", 30.0, 0.6, (0.5, 0.7), 100.0, 5.0, 300.0, 120.0, "host")
TOLERANCES = Tolerances(perplexity_percent=2.0, accuracy_points=3.0, latency_percent=25.0, memory_percent=10.0)


@pytest.mark.parametrize("seed", range(30))
def test_the_frontier_is_every_point_that_none_is_better_than_in_all(seed: int) -> None:
    generator = random.Random(seed)
    points = [
        replace(
            POINT,
            perplexity=generator.randint(1, 5),
            tpot_ms=generator.randint(1, 5),
            memory_mb=generator.randint(1, 5),
        )
        for _ in range(12)
    ]

    def figures(point: Point) -> tuple[float, float, float]:
        return point.perplexity, point.tpot_ms, point.memory_mb

    kept = {figures(point) for point in undominated(points)}
    for point in points:
        beaten = any(
            figures(other) != figures(point)
            and all(a <= b for a, b in zip(figures(other), figures(point), strict=True))
            for other in points
        )
        assert (figures(point) in kept) is not beaten
    assert not any(one.dominates(other) for one, other in itertools.permutations(undominated(points), 2))


def test_points_of_different_machines_are_never_compared() -> None:
    predicted = replace(POINT, measured_on="predicted")
    with pytest.raises(ValueError, match="measured on host cannot be compared with predicted"):
        POINT.dominates(predicted)
    with pytest.raises(ValueError, match="the baseline was measured on predicted, this run on host"):
        compare(predicted, POINT, TOLERANCES)


def test_a_point_read_from_json_is_the_point_that_was_written() -> None:
    assert Point.from_json(POINT.to_json()) == POINT


@pytest.mark.parametrize(
    ("figure", "just_in", "just_out"),
    [
        ("perplexity", 30.59, 30.61),
        ("ttft_ms", 124.9, 125.1),
        ("tpot_ms", 6.24, 6.26),
        ("memory_mb", 329.9, 330.1),
        ("accuracy", 0.5701, 0.5699),
    ],
)
def test_each_figure_may_be_worse_by_its_tolerance_and_no_more(figure: str, just_in: float, just_out: float) -> None:
    assert all(one.holds for one in compare(POINT, replace(POINT, **{figure: just_in}), TOLERANCES))
    broken = [one.figure for one in compare(POINT, replace(POINT, **{figure: just_out}), TOLERANCES) if not one.holds]
    assert broken == [figure]


def test_a_point_without_a_measured_time_is_refused() -> None:
    with pytest.raises(ValueError, match="tpot_ms is a positive number, got 0"):
        replace(POINT, tpot_ms=0)


def test_only_a_predicted_point_may_be_of_unknown_quality_and_it_dominates_nothing() -> None:
    unknown = {"perplexity": None, "accuracy": None, "accuracy_interval": None}
    predicted = replace(POINT, **unknown, measured_on="predicted")  # type: ignore[arg-type]
    assert Point.from_json(predicted.to_json()) == predicted
    with pytest.raises(ValueError, match="measure it on its device"):
        predicted.dominates(replace(predicted, tpot_ms=1.0))
    with pytest.raises(ValueError, match="a point measured on host has its quality"):
        replace(POINT, **unknown)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="has its quality"):
        replace(POINT, perplexity=None, measured_on="predicted")
    with pytest.raises(ValueError, match="is no baseline"):
        compare(predicted, predicted, Tolerances(1, 1, 1, 1))
