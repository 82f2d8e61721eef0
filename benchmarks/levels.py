"""Getting at another shape: extracting it, loading its checkpoint, or changing the level of an opened file.

python -m benchmarks.levels
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import _record
from benchmarks._workspace import Workspace
from components.levels import Levels, save_levels
from components.reference import load_checkpoint
from components.subnet import extract
from components.supernet import Supernet


def seconds(action: Callable[[], object], runs: int) -> list[float]:
    samples = []
    for _ in range(runs + 1):
        started = time.perf_counter()
        action()
        samples.append(time.perf_counter() - started)
    return samples[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    given = parser.parse_args()
    work = Workspace.of()
    made = Supernet.load(work.supernet_folder, work.model(torch.float32))
    shapes = made.space.all
    extraction = {str(shape): seconds(lambda shape=shape: extract(made, shape), 3) for shape in shapes}  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as folder:
        one = Path(folder) / "checkpoint"
        extract(made, shapes[-1]).save(one, work.base, "# for a benchmark\n")
        loading = seconds(lambda: load_checkpoint(one), given.runs)
        save_levels(made, shapes, Path(folder) / "levels")
        size = sum(path.stat().st_size for path in (Path(folder) / "levels").iterdir())
        opening = seconds(lambda: Levels(Path(folder) / "levels"), given.runs)
        levels = Levels(Path(folder) / "levels")
        changing = [
            sample
            for name in levels.cuts
            for sample in seconds(lambda name=name: levels.activate(name), given.runs)  # type: ignore[misc]
        ]
        with torch.profiler.profile(profile_memory=True) as profile:
            for name in levels.cuts:
                levels.activate(name)
        allocated = sum(max(0, event.self_cpu_memory_usage) for event in profile.events()) / len(levels.cuts)
    slowest = max(statistics.median(samples) for samples in extraction.values())
    share = allocated / levels.model_bytes
    _record.table(
        ["what", "figure"],
        [
            ["extracting and merging one shape, s (slowest of all shapes)", slowest],
            ["loading one checkpoint, s", statistics.median(loading)],
            ["opening the file of all levels, s", statistics.median(opening)],
            ["changing the level, ms", statistics.median(changing) * 1000],
            ["allocated by a change, % of the model", share * 100],
            ["the file of all levels, times the model", size / levels.model_bytes],
        ],
    )
    _record.keep(
        "levels",
        {
            "extraction_s": extraction,
            "loading_s": loading,
            "opening_s": opening,
            "changing_s": changing,
            "allocated_share": share,
            "levels": list(levels.cuts),
            "file_bytes": size,
            "model_bytes": levels.model_bytes,
        },
    )


if __name__ == "__main__":
    main()
