"""Which candidate to build and measure next, for a frontier that becomes better with every measurement.

Every candidate is forecast from all that was measured so far: quality by `components.quality`, time and memory by
`components.calibration`. The next one is the candidate whose measurement is expected to add most to the area that the frontier
commands (expected hypervolume improvement: Emmerich, Giannakoglou and Naujoks, IEEE Transactions on Evolutionary
Computation 10(4), 2006), times the share of its quantization's packages that held so far.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import NormalDist, fmean

from components.calibration import Calibration, Run, calibrate
from components.frontier import hypervolume
from components.latency import Cost, Load, predict
from components.quality import Features, Outline, Quality, features

_NODES = tuple(NormalDist().inv_cdf((node + 0.5) / 9) for node in range(9))
"""Nine equally likely values of a normal variable, over which a gain is averaged."""

_SLOWEST, _WORST = 2, 4


@dataclass(frozen=True)
class Option:
    """One shape in one quantization, which may be built."""

    quantization: str
    outline: Outline
    load: Load
    unfit: str | None = None
    """Why it would not pass verification, as far as that is known before it is built."""

    @property
    def name(self) -> str:
        return f"{self.outline.name} {self.quantization}"


@dataclass(frozen=True)
class Outcome:
    """What was built and measured; `refused` says why it is not fit to be published, None where it is."""

    option: Option
    perplexity: float
    run: Run
    refused: str | None = None

    @property
    def place(self) -> tuple[float, float]:
        """Where it is in the plane of the frontier: logarithms of milliseconds a token and of perplexity."""
        return math.log(self.run.tpot_ms), math.log(self.perplexity)


@dataclass(frozen=True)
class Forecast:
    """What an option is expected to measure."""

    option: Option
    cost: Cost
    log_perplexity: float
    spread: float
    """Standard deviation of the logarithm of perplexity."""

    @property
    def perplexity(self) -> float:
        return math.exp(self.log_perplexity)

    @property
    def come_true(self) -> Outcome:
        run = Run(self.option.load, self.cost.ttft_ms, self.cost.tpot_ms, self.cost.memory_mb)
        return Outcome(self.option, self.perplexity, run)


@dataclass(frozen=True)
class Prior:
    """What is known before anything is built: the float model's perplexities, the quantizations' price, the device's figures."""

    known: Sequence[tuple[Features, float]]
    ratios: Mapping[str, float]
    """Perplexity against float by quantization."""
    bandwidth_gb_s: float
    int8_gops: float


@dataclass(frozen=True)
class Exploration:
    """All options and what was measured of them; a value, so that a search is a sequence of these."""

    options: tuple[Option, ...]
    prior: Prior
    outcomes: tuple[Outcome, ...] = ()
    failed: frozenset[Option] = frozenset()
    """What could not be built."""

    def after(self, outcome: Outcome) -> Exploration:
        return replace(self, outcomes=(*self.outcomes, outcome))

    def without(self, option: Option) -> Exploration:
        """As if this option had not been measured: what is then forecast of it is a held-out prediction."""
        others = tuple(one for one in self.outcomes if one.option != option)
        return self if others == self.outcomes else replace(self, outcomes=others)

    def forecast(self, option: Option) -> Forecast:
        mean, spread = self._quality.predict(features(option.outline, option.quantization, evaluation=True))
        return Forecast(option, self._cost(option), mean, spread)

    @cached_property
    def forecasts(self) -> tuple[Forecast, ...]:
        """Of every option that was not tried and may be fit, in the options' order."""
        tried = {one.option for one in self.outcomes} | self.failed
        return tuple(one for one in self._every if one.option not in tried and not one.option.unfit)

    def next(self) -> Forecast | None:
        """The forecast of what is best measured next, the first of equals; None where nothing is left."""
        return max(self.forecasts, key=self._expected_gain, default=None)

    def likely(self, most: int) -> tuple[Forecast, ...]:
        """What would be measured next, one after another, if every forecast came true; the first is `next`.

        The kriging believer: Ginsbourger, Le Riche and Carraro, Kriging is well-suited to parallelize optimization, 2010.
        """
        exploration, found = self, list[Forecast]()
        while len(found) < most and (best := exploration.next()) is not None:
            found.append(best)
            exploration = exploration.after(best.come_true)
        return tuple(found)

    @cached_property
    def reference(self) -> tuple[float, float]:
        """The corner that area is counted from: what is slower or worse than this is worth nothing.

        It is twice the time of the fastest quantization's slowest option, and four times the least perplexity.
        """
        slowest: dict[str, float] = {}
        for one in self._every:
            time = math.log(one.cost.tpot_ms)
            slowest[one.option.quantization] = max(time, slowest.get(one.option.quantization, time))
        least = min(one.log_perplexity for one in self._every)
        return min(slowest.values()) + math.log(_SLOWEST), least + math.log(_WORST)

    @cached_property
    def area(self) -> float:
        """What the measured frontier commands."""
        return hypervolume(self._places, self.reference)

    def _expected_gain(self, forecast: Forecast) -> float:
        time = math.log(forecast.cost.tpot_ms)
        losses = (forecast.log_perplexity + forecast.spread * node for node in _NODES)
        return self._chance(forecast.option.quantization) * fmean(
            hypervolume([*self._places, (time, loss)], self.reference) - self.area for loss in losses
        )

    def _chance(self, quantization: str) -> float:
        """That a package of this quantization can be built and is fit: Laplace's rule of succession."""
        held = [one.refused is None for one in self.outcomes if one.option.quantization == quantization]
        failed = sum(option.quantization == quantization for option in self.failed)
        return (sum(held) + 1) / (len(held) + failed + 1)

    @cached_property
    def _every(self) -> tuple[Forecast, ...]:
        return tuple(map(self.forecast, self.options))

    @cached_property
    def _places(self) -> list[tuple[float, float]]:
        return [one.place for one in self.outcomes if one.refused is None]

    @cached_property
    def _quality(self) -> Quality:
        built = [
            (features(one.option.outline, one.option.quantization, evaluation=True), one.perplexity)
            for one in self.outcomes
        ]
        return Quality([*self.prior.known, *built], self.prior.ratios)

    def _cost(self, option: Option) -> Cost:
        """This host's where anything ran on it, the device's before."""
        if not self.outcomes:
            return predict(option.load, self.prior.bandwidth_gb_s, self.prior.int8_gops)
        return self.calibrations[option.quantization].predict(option.load)

    @cached_property
    def calibrations(self) -> Mapping[str, Calibration]:
        """What the runs so far say of this host, by quantization; raises ValueError before the first."""
        runs: dict[str, list[Run]] = {option.quantization: [] for option in self.options}
        for one in self.outcomes:
            runs[one.option.quantization].append(one.run)
        return calibrate(runs, self.prior.bandwidth_gb_s, self.prior.int8_gops)
