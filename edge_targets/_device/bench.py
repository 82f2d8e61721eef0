"""How fast a package answers on this machine, with every sample and with what decides whether two runs compare."""

from __future__ import annotations

import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from . import facts
from .machine import architecture, here, processor, usable_cores
from .runner import Runner
from .text import Text

FORMAT_VERSION = 2
FEWEST_RUNS = 3
"""Of which `amoeba measured` takes the figures."""
PROMPT_TOKENS = (128, 512)
"""Lengths of prompt at which time to first token is taken; time per token follows the first of them."""
_TEXT = (
    "A long prompt is read all at once, and that is where most of the arithmetic goes; an answer is written one token "
    "after another, and for each of them the whole model is read from memory. "
)
Progress = Callable[[int, int], None]


def _silent(done: int, total: int) -> None:
    pass


@dataclass(frozen=True)
class Latency:
    """Raw samples of a run, in milliseconds; the medians are what is quoted."""

    ttft_ms_samples: dict[int, tuple[float, ...]]
    """Time to first token, by the prompt's length in tokens."""
    tpot_ms_samples: tuple[float, ...]
    """Time per output token after the first, after the shortest prompt."""
    new_tokens: int
    warm_up_runs: int
    threads: int
    peak_memory_mb: float
    """Peak resident memory of the measuring process, runtime included, and what it held of a GPU at most."""

    @property
    def ttft_ms(self) -> float:
        """After the shortest prompt."""
        return statistics.median(self.ttft_ms_samples[min(self.ttft_ms_samples)])

    @property
    def tpot_ms(self) -> float:
        return statistics.median(self.tpot_ms_samples)

    def to_json(self) -> dict[str, Any]:
        medians = {str(length): statistics.median(samples) for length, samples in self.ttft_ms_samples.items()}
        return {
            **asdict(self),
            "ttft_ms_samples": {str(length): samples for length, samples in self.ttft_ms_samples.items()},
            "ttft_ms_by_prompt_tokens": medians,
            "ttft_ms": self.ttft_ms,
            "tpot_ms": self.tpot_ms,
        }


def bench(folder: Path, runner: Runner, threads: int, runs: int, new_tokens: int, progress: Progress) -> dict[str, Any]:
    """What `amoeba measured` takes back: latency, memory and size of a package, as JSON values."""
    known = facts.read(folder)
    lengths = prompt_lengths(known["context_length"], new_tokens)
    passage = prompt(Text(folder), max(lengths))
    latency = measure(runner, [passage[:length] for length in lengths], new_tokens, runs, threads, progress)
    latency = replace(latency, peak_memory_mb=latency.peak_memory_mb + runner.gpu_memory_mb)
    return {
        "format_version": FORMAT_VERSION,
        "target": known["target"],
        "shape": known["shape"],
        "quantization": known["quantization"],
        "model_files": {name: _digest(folder / name) for name in known["model_files"]},
        "runtime": known["runtime"],
        "runs_on": runner.runs_on,
        "host": host(),
        "machine": here().to_json(),
        "size_mb": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6,
        "latency": latency.to_json(),
    }


def prompt_lengths(context_length: int, new_tokens: int) -> tuple[int, ...]:
    """Of the usual lengths those that leave room for an answer; half the room where none does."""
    room = context_length - new_tokens
    return tuple(length for length in PROMPT_TOKENS if length <= room) or (max(1, room // 2),)


def prompt(text: Text, tokens: int) -> list[int]:
    """The same English in any tokenizer, as long as wanted."""
    sentence = text.encode(_TEXT)
    return (sentence * (tokens // len(sentence) + 1))[:tokens]


def measure(
    runner: Runner,
    prompts: Sequence[Sequence[int]],
    new_tokens: int,
    runs: int,
    threads: int,
    progress: Progress = _silent,
    clock: Callable[[], float] = time.perf_counter,
) -> Latency:
    """Time `runs` greedy generations a prompt, after one that warms up; raises ValueError when generation stops at once.

    Prompts take turns, so that a machine that slows down slows all of them.
    """
    if runs < 1 or new_tokens < 2:
        raise ValueError(f"got {runs} runs of {new_tokens} tokens; at least 1 run of 2 tokens is needed")
    ttft: dict[int, list[float]] = {len(tokens): [] for tokens in prompts}
    tpot: list[float] = []
    shortest = min(ttft)
    for run in range(runs + 1):
        progress(run, runs + 1)
        for tokens in prompts:
            wanted = new_tokens if len(tokens) == shortest else 1
            started = clock()
            stamps = [clock() for _ in runner.generate(tokens, wanted, to_the_end=True)]
            if len(stamps) < wanted:
                raise ValueError(f"the model wrote {len(stamps)} tokens after the benchmark prompt; wanted {wanted}")
            if run:
                ttft[len(tokens)].append((stamps[0] - started) * 1000)
                if len(stamps) > 1:
                    tpot.append((stamps[-1] - stamps[0]) * 1000 / (len(stamps) - 1))
    progress(runs + 1, runs + 1)
    samples = {length: tuple(times) for length, times in ttft.items()}
    return Latency(samples, tuple(tpot), new_tokens, 1, threads, peak_memory_mb())


def host() -> dict[str, Any]:
    """The machine that figures were taken on; latency is comparable only where it is the same."""
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return {
        "processor": processor(),
        "cores": usable_cores(),
        "system": platform.system(),
        "machine": architecture(),
        "governor": governor.read_text("utf-8").strip() if governor.is_file() else None,
    }


def peak_memory_mb() -> float:
    """Peak resident memory of this program.

    Linux's `ru_maxrss` also counts what the process was before it became this program, so a child of a large parent starts
    with the parent's; `VmHWM` does not.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text("utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    import resource  # not on Windows, which runs packages all the same

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _digest(path: Path) -> str:
    return facts.sha256(path)
