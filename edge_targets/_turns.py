"""Artifacts timed in turns, so that a machine that slows down slows all of them alike.

A round times every artifact once, in order and then in the order reversed: A B, B A, A B, ... Each run is a process of its
own, since where a process happens to put a model in memory alone makes some percent, which would pass for a difference.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge_targets._device import facts
from edge_targets._device.bench import measure, prompt, prompt_lengths
from edge_targets._device.text import Text


@dataclass(frozen=True)
class Run:
    """Medians of one process, in milliseconds, and its peak resident memory in megabytes."""

    ttft_ms: float
    tpot_ms: float
    memory_mb: float


@dataclass(frozen=True)
class RunSettings:
    """Numbers of `params.yaml` that decide a run."""

    runs: int
    """Timed generations of a process, after one that warms up."""
    new_tokens: int


Timer = Callable[[], Run]
Progress = Callable[[int, int], None]


def take_turns(timers: Sequence[Timer], rounds: int, progress: Progress = lambda done, total: None) -> list[list[Run]]:
    """Each timer's runs, one a round; raises ValueError for an odd number of rounds, of which one order has more."""
    if rounds < 2 or rounds % 2:
        raise ValueError(f"rounds come in pairs, one in each order; got {rounds}")
    taken: list[list[Run]] = [[] for _ in timers]
    order = list(range(len(timers)))
    for turn in range(rounds):
        for done, index in enumerate(order if turn % 2 == 0 else reversed(order)):
            progress(turn * len(timers) + done, rounds * len(timers))
            taken[index].append(timers[index]())
    progress(rounds * len(timers), rounds * len(timers))
    return taken


def apart(package: Path, threads: int, settings: RunSettings) -> Timer:
    """A timer that runs a package in a fresh process."""

    def timer() -> Run:
        fresh = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=fresh) as process:
            return process.submit(timed, package, threads, settings).result()

    return timer


def timed(package: Path, threads: int, settings: RunSettings) -> Run:
    """One run, in this process."""
    known = facts.read(package)
    length = min(prompt_lengths(known["context_length"], settings.new_tokens))
    tokens = prompt(Text(package), length)
    latency = measure(facts.load(package, threads), [tokens], settings.new_tokens, settings.runs, threads)
    return Run(latency.ttft_ms, latency.tpot_ms, latency.peak_memory_mb)


def as_json(runs: Sequence[Sequence[Run]]) -> list[list[dict[str, Any]]]:
    return [[asdict(run) for run in taken] for taken in runs]
