import itertools
import random
from dataclasses import replace

import pytest

from components.frontier import Point, undominated

POINT = Point("d24w75", "int8", 30.0, 0.6, (0.5, 0.7), 100.0, 5.0, 300.0, 120.0, "host")


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


def test_a_point_read_from_json_is_the_point_that_was_written() -> None:
    assert Point.from_json(POINT.to_json()) == POINT


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
