"""Time and memory predicted from a few runs: of a made-up machine whose every figure is known."""

from __future__ import annotations

import random

import pytest
from fixtures.smollm import BITS, CONFIG

from components.calibration import Calibration, Run, calibrate
from components.latency import Load, Weights

SHAPES = [[(True, neurons)] * depth for depth in (20, 24, 30) for neurons in (768, 1152, 1536)]
SHAPES += [[(index % 3 > 0, 1536 * (index % 5) // 4) for index in range(30)]]
DEVICE = {"bandwidth_gb_s": 36.0, "int8_gops": 244.0}


def load(layers: list[tuple[bool, int]], quantization: str) -> Load:
    return Load.of(Weights.of(CONFIG, layers), BITS[quantization], 9.0, 4096)


def run(load: Load, slowness: float = 1.0, noise: float = 0.0, seed: int = 0) -> Run:
    """A machine four times as slow as the device says, with a price on every block and a runtime that takes 180 MB."""
    draw = random.Random(seed)
    blocks = 0.05 * load.attentions + 0.02 * load.feed_forwards
    return Run(
        load,
        ttft_ms=(12 * load.multiply_adds_g + 5 * blocks + 3) * slowness * (1 + draw.gauss(0, noise)),
        tpot_ms=(0.05 * load.layers_mb + 0.06 * load.head_mb + blocks) * slowness * (1 + draw.gauss(0, noise)),
        memory_mb=(1.2 * load.layers_mb + 2 * load.tables_mb + 180) * (1 + draw.gauss(0, noise / 5)),
    )


def errors(calibration: Calibration, quantization: str, slowness: float = 1.0) -> list[float]:
    """Relative, of every figure of every shape."""
    found = []
    for shape in SHAPES:
        known = run(load(shape, quantization), slowness)
        predicted = calibration.predict(known.load)
        found += [
            abs(getattr(predicted, name) / getattr(known, name) - 1) for name in ("ttft_ms", "tpot_ms", "memory_mb")
        ]
    return found


def test_four_runs_predict_every_other_shape() -> None:
    picked = [SHAPES[0], SHAPES[2], SHAPES[8], SHAPES[9]]
    found = calibrate({"int8": [run(load(shape, "int8")) for shape in picked]}, **DEVICE)["int8"]
    assert max(errors(found, "int8")) < 0.05


def test_noise_in_the_runs_is_not_multiplied() -> None:
    picked = [SHAPES[0], SHAPES[2], SHAPES[6], SHAPES[8], SHAPES[9]]
    for seed in range(20):
        runs = [run(load(shape, "int8"), noise=0.03, seed=10 * seed + number) for number, shape in enumerate(picked)]
        found = errors(calibrate({"int8": runs}, **DEVICE)["int8"], "int8")
        assert sum(found) / len(found) < 0.06


def test_one_run_gives_the_pace_of_this_machine_to_all_quantizations() -> None:
    full = run(load(SHAPES[8], "int8"))
    found = calibrate({"int8": [full], "int4": []}, **DEVICE)
    assert found["int8"].predict(full.load).tpot_ms == pytest.approx(full.tpot_ms, rel=0.02)
    assert (found["int8"].runs, found["int4"].runs) == (1, 0)
    assert max(errors(found["int4"], "int4")) < 0.5  # the device's own figures are off by 300 %


def test_a_quantization_whose_kernels_are_slower_is_not_predicted_by_another_s_runs() -> None:
    runs = {
        name: [run(load(shape, name), slowness) for shape in SHAPES[::3]]
        for name, slowness in (("int8", 1.0), ("int4", 2.0))
    }
    found = calibrate(runs, **DEVICE)
    assert max(errors(found["int8"], "int8")) < 0.07
    assert max(errors(found["int4"], "int4", slowness=2.0)) < 0.07


def test_no_term_is_negative_however_the_runs_contradict_each_other() -> None:
    small, large = load(SHAPES[0], "int8"), load(SHAPES[8], "int8")
    found = calibrate({"int8": [Run(small, 100, 10, 500), Run(large, 50, 5, 300)]}, **DEVICE)["int8"]
    assert min(*found.ttft_ms, *found.tpot_ms, *found.memory_mb) >= 0


def test_what_is_predicted_from_runs_says_that_it_is_the_host_s() -> None:
    found = calibrate({"int8": [run(load(SHAPES[0], "int8"))]}, **DEVICE)["int8"]
    assert found.predict(load(SHAPES[1], "int8")).machine == "host"


def test_without_any_run_there_is_no_calibration() -> None:
    with pytest.raises(ValueError, match="takes at least one run; measure a package first"):
        calibrate({"int8": []}, **DEVICE)


def test_terms_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="the terms of tpot_ms are 4 numbers from 0 up"):
        Calibration((1, 1, 1, 1), (1, 1, 1), (1, 1, 1, 1), 1)
    with pytest.raises(ValueError, match="a run's tpot_ms is a positive number, got 0"):
        Run(load(SHAPES[0], "int8"), 1, 0, 1)
