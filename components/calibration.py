"""A few runs of packages on one machine, and what they say of every other package of that base, runtime and quantization.

A figure is a sum of terms that are none of them negative: what is proportional to bytes or to multiply-adds, what every
attention and every FFN adds however narrow, and what comes once. The terms start from the device's figures; runs move them by
non-negative least squares (Lawson and Hanson, Solving Least Squares Problems, 1974, chapter 23) on relative errors.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from components.latency import Cost, Load

Terms = tuple[float, ...]
_HOLD = 0.05
"""How strongly a term holds to where it started: changing it by all of itself counts as a relative error of 5 % in one run."""
_BLOCK_MS = 0.03
"""Where what an attention or an FFN adds to a token starts: a few operators of about 10 microseconds each."""
_RUNTIME_MB = 100.0
"""Where what a runtime takes for itself starts."""


@dataclass(frozen=True)
class Run:
    """What one package measured here."""

    load: Load
    ttft_ms: float
    tpot_ms: float
    memory_mb: float

    def __post_init__(self) -> None:
        for name in FEATURES:
            if not getattr(self, name) > 0:
                raise ValueError(f"a run's {name} is a positive number, got {getattr(self, name)}")


FEATURES: Mapping[str, Callable[[Load], Terms]] = {
    "ttft_ms": lambda load: (load.multiply_adds_g, load.attentions, load.feed_forwards, 1.0),
    "tpot_ms": lambda load: (load.layers_mb + load.read_kv_mb, load.head_mb, load.attentions, load.feed_forwards),
    "memory_mb": lambda load: (load.layers_mb, load.tables_mb, load.kv_mb, 1.0),
}
"""By figure, what its terms are multiplied with."""


@dataclass(frozen=True)
class Calibration:
    """The terms of each figure for one quantization on one machine, in the order of `FEATURES`."""

    ttft_ms: Terms
    tpot_ms: Terms
    memory_mb: Terms
    runs: int
    """Of this very quantization; without any, the terms are the device's at the pace of the other quantizations' runs."""

    def __post_init__(self) -> None:
        for name in FEATURES:
            terms = getattr(self, name)
            if len(terms) != 4 or not all(term >= 0 for term in terms):
                raise ValueError(f"the terms of {name} are 4 numbers from 0 up, got {terms}")

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Calibration:
        """From what `dataclasses.asdict` made."""
        return cls(**{name: tuple(value[name]) for name in FEATURES}, runs=value["runs"])

    def predict(self, load: Load) -> Cost:
        figures = {name: _figure(getattr(self, name), of(load)) for name, of in FEATURES.items()}
        return Cost(size_mb=load.size_mb, machine="host", **figures)


def calibrate(runs: Mapping[str, Sequence[Run]], bandwidth_gb_s: float, int8_gops: float) -> dict[str, Calibration]:
    """A calibration for every quantization named; raises ValueError where not one of them has a run.

    All start from the device's figures at the pace that the runs of all quantizations have at the middle.
    """
    start = {
        "ttft_ms": (1000 / int8_gops, _BLOCK_MS, _BLOCK_MS, 1.0),
        "tpot_ms": (1 / bandwidth_gb_s, 1 / bandwidth_gb_s, _BLOCK_MS, _BLOCK_MS),
        "memory_mb": (1.0, 1.0, 0.1, _RUNTIME_MB),
    }
    if not any(runs.values()):
        raise ValueError("a calibration takes at least one run; measure a package first")
    every = [run for own in runs.values() for run in own]
    paced = {name: _paced(name, terms, every) for name, terms in start.items()}
    return {
        quantization: Calibration(**{name: _fitted(name, terms, own) for name, terms in paced.items()}, runs=len(own))
        for quantization, own in runs.items()
    }


def _paced(name: str, terms: Terms, runs: Iterable[Run]) -> Terms:
    pace = statistics.median(getattr(run, name) / _figure(terms, FEATURES[name](run.load)) for run in runs)
    return tuple(term * pace for term in terms)


def _fitted(name: str, start: Terms, runs: Sequence[Run]) -> Terms:
    """The terms of least squared relative error over the runs, held to their start, each in units of itself."""
    from scipy.optimize import nnls

    wanted = np.array([getattr(run, name) for run in runs]).reshape(-1, 1)
    features = np.array([FEATURES[name](run.load) for run in runs]).reshape(-1, len(start))
    rows = np.vstack([features * start / wanted, _HOLD * np.eye(len(start))])
    scales, _ = nnls(rows, np.concatenate([np.ones(len(runs)), np.full(len(start), _HOLD)]))
    return tuple(float(scale * term) for scale, term in zip(scales, start, strict=True))


def _figure(terms: Terms, features: Terms) -> float:
    return sum(term * feature for term, feature in zip(terms, features, strict=True))
