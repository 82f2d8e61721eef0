"""What is measured is kept, and nothing else."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.shape import Shape
from edge_targets._device import facts
from flows import measuring
from flows.bases import Declared
from flows.choosing import Choice
from flows.settings import settings

KILLED = """
import json, os, signal, sys
from pathlib import Path
from flows import measuring

def written(arguments, what):
    Path(arguments[-1]).parent.mkdir(parents=True)
    Path(arguments[-1]).write_text(json.dumps({"whole": True}))

def killed_after(place, value, keep=measuring.keep):
    keep(place, value)
    os.kill(os.getpid(), signal.SIGKILL)

measuring.run_apart, measuring.keep = written, killed_after
measuring.inspection("made", Path("package"), "key")
"""


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("AMOEBA_WORKSPACE", str(tmp_path))
    settings.cache_clear()
    yield tmp_path
    settings.cache_clear()


def test_a_measurement_that_was_killed_as_it_was_kept_is_taken_up_and_leaves_nothing(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED], check=False)
    assert done.returncode == -signal.SIGKILL
    places = workspace / ".amoeba" / "cache" / "measurements"
    assert len(list(places.glob("*.fresh"))) == 1
    monkeypatch.setattr(measuring, "run_apart", lambda arguments, what: pytest.fail("measured again"))
    assert measuring.inspection("made", Path("package"), "key") == {"whole": True}
    (left,) = places.iterdir()
    assert json.loads(left.read_text())["value"] == {"whole": True}


def refused(target: str, **close: float) -> str | None:
    choice = Choice(target, Shape(4, 100), "fp16", 64, 100.0, ())
    return measuring.refusal(choice, Path("nowhere"), {"agreement": close})


def test_activations_that_a_devices_float16_does_not_hold_are_refused() -> None:
    assert "activations of 4e+04, and the device's float16 ends" in (
        refused("jetson_thor", largest_activation=4e4) or ""
    )


CLOSE = {"top_1": 1.0, "kl": 0.0, "perplexity_ratio": 1.0, "greedy": 1.0}


@pytest.mark.parametrize(
    ("figure", "value", "said"),
    [
        ("top_1", 0.97, "top_1 0.97 (at least 0.98)"),
        ("kl", 0.003, "kl 0.003 (at most 0.002)"),
        ("perplexity_ratio", 1.01, "perplexity_ratio 1.01 (at most 1.005)"),
        ("greedy", 0.8, "greedy 0.8 (at least 0.9)"),
    ],
)
def test_what_is_too_far_from_its_float_subnet_in_one_figure_is_refused(figure: str, value: float, said: str) -> None:
    assert refused("x86_avx2", **{**CLOSE, figure: value}) == f"is too far from its float subnet: {said}"


@pytest.mark.parametrize(("held_mb", "refusal"), [(100.0, None), (101.0, "takes 101 MB with a full context, over 100")])
def test_what_takes_more_memory_than_was_asked_for_is_refused(
    held_mb: float, refusal: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts, "read", lambda package: {"memory_mb": {"weights": held_mb - 40, "kv_cache": 40.0}})
    assert refused("x86_avx2", **CLOSE) == refusal


@pytest.mark.parametrize("perplexity", [math.nan, math.inf])
def test_a_package_that_answers_with_no_number_is_no_point(perplexity: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "measure_package", lambda base, choice: {"perplexity": {"value": perplexity}})
    choice = Choice("x86_avx2", Shape(4, 100), "int4", 64, 100.0, ())
    with pytest.raises(
        measuring.NoNumberError, match=f"is too far from its float subnet: its perplexity is {perplexity}"
    ):
        measuring.examine(Declared("tiny", "./tiny", "0" * 64, "tiny"), choice)


def test_what_is_no_number_is_not_close() -> None:
    assert refused("x86_avx2", kl=math.nan) == "is too far from its float subnet: kl nan (at most 0.002)"
