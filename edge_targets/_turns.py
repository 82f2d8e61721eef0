"""Artifacts timed in turns, so that what disturbs a machine disturbs all of them alike.

A round loads the artifacts, each in a fresh process, and has them generate one after the other, A B A B, and the next round in
the order reversed, B A B A. Processes are fresh in every round, since where one happens to put a model in memory makes
some percent for all of its life; and they wait for each other, since a busy neighbour is there for seconds, not for one
generation only (docs/decisions/17 has the figures).
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from edge_targets._device import facts
from edge_targets._device.bench import peak_memory_mb, prompt, prompt_lengths
from edge_targets._device.text import Text

_AT_ONCE = 2
"""Artifacts that wait in memory for each other; those of a longer list take turns in groups, the last one larger if need be."""


@dataclass(frozen=True)
class Run:
    """Medians of one process, in milliseconds, and its peak resident memory in megabytes."""

    ttft_ms: float
    tpot_ms: float
    memory_mb: float


class Waiting(Protocol):
    """An artifact in a process of its own, loaded or on its way to be."""

    def once(self) -> tuple[float, float]:
        """Generate once: milliseconds to the first token, and of each that follows."""
        ...

    def memory_mb(self) -> float:
        """The process's peak so far."""
        ...


class Generating(Protocol):
    """What of a runner is timed."""

    def generate(self, tokens: Sequence[int], max_new_tokens: int, *, to_the_end: bool = False) -> Iterator[int]:
        """See `runner.Runner`."""
        ...


Start = Callable[[], AbstractContextManager[Waiting]]
Load = Callable[[Path, int], Generating]
"""A package and a number of threads to what generates."""
Progress = Callable[[int, int], None]


def take_turns(
    starts: Sequence[Start],
    rounds: int,
    runs: int,
    progress: Progress = lambda done, total: None,
) -> list[list[Run]]:
    """Each artifact's runs, one a round, of `runs` generations after one that warms up.

    Raises ValueError for an odd number of rounds, of which one order has more.
    """
    if rounds < 2 or rounds % 2:
        raise ValueError(f"rounds come in pairs, one in each order; got {rounds}")
    taken: list[list[Run]] = [[] for _ in starts]
    groups = _groups(len(starts))
    done = 0
    for turn in range(rounds):
        for group in groups if turn % 2 == 0 else reversed(groups):
            progress(done, rounds * len(starts))
            order = list(group if turn % 2 == 0 else reversed(group))
            for index, run in zip(order, _round([starts[index] for index in order], runs), strict=True):
                taken[index].append(run)
            done += len(group)
    progress(done, rounds * len(starts))
    return taken


def _groups(artifacts: int) -> list[range]:
    """None of one artifact, where there are more: alone it would generate twice in a row."""
    firsts = range(0, max(1, artifacts - 1), _AT_ONCE)
    return [range(first, last) for first, last in zip(firsts, [*firsts[1:], artifacts], strict=True)]


def _round(starts: Sequence[Start], runs: int) -> list[Run]:
    with ExitStack() as stack:
        waiting = [stack.enter_context(start()) for start in starts]
        for one in waiting:
            one.once()
        times: list[list[tuple[float, float]]] = [[] for _ in waiting]
        for _ in range(runs):
            for index, one in enumerate(waiting):  # never itself twice in a row, which finds its weights in the cache
                times[index].append(one.once())
        return [_run(taken, one.memory_mb()) for taken, one in zip(times, waiting, strict=True)]


def _run(taken: Sequence[tuple[float, float]], memory_mb: float) -> Run:
    ttft_ms, tpot_ms = zip(*taken, strict=True)
    return Run(statistics.median(ttft_ms), statistics.median(tpot_ms), memory_mb)


@contextmanager
def apart(package: Path, threads: int, new_tokens: int, load: Load = facts.load) -> Iterator[Waiting]:
    """A package in a fresh process, which is loading when this returns."""
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=fresh) as process:
        yield _Apart(process, process.submit(_Loaded.hold, package, threads, new_tokens, load))


class _Apart:
    def __init__(self, process: ProcessPoolExecutor, loading: Future[None]) -> None:
        self._process, self._loading = process, loading

    def once(self) -> tuple[float, float]:
        """Raises PackageError for a package that does not load."""
        self._loading.result()
        return self._process.submit(_Loaded.once).result()

    def memory_mb(self) -> float:
        return self._process.submit(peak_memory_mb).result()


class _Loaded:
    """What a process holds."""

    held: _Loaded

    def __init__(self, runner: Generating, tokens: list[int], new_tokens: int) -> None:
        self._runner, self._tokens, self._new_tokens = runner, tokens, new_tokens

    @classmethod
    def hold(cls, package: Path, threads: int, new_tokens: int, load: Load) -> None:
        length = min(prompt_lengths(facts.read(package)["context_length"], new_tokens))
        cls.held = cls(load(package, threads), prompt(Text(package), length), new_tokens)

    @classmethod
    def once(cls) -> tuple[float, float]:
        held = cls.held
        started = time.perf_counter()
        generated = held._runner.generate(held._tokens, held._new_tokens, to_the_end=True)
        stamps = [time.perf_counter() for _ in generated]
        if len(stamps) < max(2, held._new_tokens):
            raise ValueError(f"{len(stamps)} tokens were written where 2 or more, and {held._new_tokens}, are timed")
        return 1000 * (stamps[0] - started), 1000 * (stamps[-1] - stamps[0]) / (len(stamps) - 1)


def as_json(runs: Sequence[Sequence[Run]]) -> list[list[dict[str, Any]]]:
    return [[asdict(run) for run in taken] for taken in runs]
