"""What the soak calls flat: growth that is there is seen, noise is not taken for it, and a leak of any kind is looked at."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks._footprint import disk, footprint
from benchmarks._growth import growth
from benchmarks.soak import BOUNDS, judged

STEPS = 40


def figures(**leaks: float) -> list[dict[str, float]]:
    """A service whose memory is noisy about 200 MB and which leaks so much of the named figures at each onboarding."""
    draw = np.random.default_rng(1)
    level = {"serve: memory_mb": 200.0, "serve: open_files": 20.0, "../temporary": 0.0}
    return [
        {
            name: value + leaks.get(name, 0) * step + (draw.normal(0, 2) if "memory" in name else 0)
            for name, value in level.items()
        }
        for step in range(STEPS)
    ]


def flat(taken: list[dict[str, float]]) -> set[str]:
    return {name for name, found in judged(taken, 1).items() if BOUNDS[name].holds(found)}


def test_a_noisy_service_that_keeps_nothing_is_flat() -> None:
    assert flat(figures()) == {"serve: memory_mb", "serve: open_files", "../temporary"}


@pytest.mark.parametrize(
    ("figure", "leak"), [("serve: memory_mb", 0.4), ("serve: open_files", 0.05), ("../temporary", 0.02)]
)
def test_a_leak_of_anything_is_not_flat(figure: str, leak: float) -> None:
    assert figure not in flat(figures(**{figure: leak}))


def test_growth_is_the_line_of_least_squares_and_its_interval_holds_it() -> None:
    values = 100 + 0.5 * np.arange(STEPS) + np.random.default_rng(0).normal(0, 1, STEPS)
    found = growth(list(values), every=2)
    slope, level = np.polyfit(2 * np.arange(STEPS), values, 1)
    assert (found.per_100, found.level) == (pytest.approx(100 * slope), pytest.approx(level))
    assert found.low < 25 < found.high


def test_too_few_figures_tell_no_growth() -> None:
    assert judged(figures()[:8], 1) == {}
    with pytest.raises(ValueError, match="from 8 figures or more, got 3"):
        growth([1, 2, 3])


def test_what_a_process_below_the_service_holds_is_counted(tmp_path: Path) -> None:
    held = "import sys; files = [open(sys.argv[1], 'w') for _ in range(7)]; print('ready', flush=True); input()"
    counts = []
    for code in ("print('ready', flush=True); input()", held):
        outer = (
            "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1], sys.argv[2]], stdin=sys.stdin)"
        )
        with subprocess.Popen(
            [sys.executable, "-c", outer, code, str(tmp_path / "file")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as service:
            assert service.stdout is not None
            assert service.stdout.readline() == "ready\n"
            counts.append(footprint(service.pid))
            service.communicate("\n")
    without, leaking = counts
    assert without["processes"] == leaking["processes"] == 2
    assert leaking["others: open_files"] - without["others: open_files"] == 7
    assert leaking["serve: memory_mb"] > 1


def test_bytes_are_those_of_every_file_below(tmp_path: Path) -> None:
    (tmp_path / "deep" / "deeper").mkdir(parents=True)
    (tmp_path / "deep" / "deeper" / "file").write_bytes(bytes(1_500_000))
    (tmp_path / "one").write_bytes(bytes(500_000))
    places = {"all": tmp_path, "one": tmp_path / "one", "none": tmp_path / "none"}
    assert disk(places) == {"all": 2.0, "one": 0.5, "none": 0}
