"""What is measured is kept, and nothing else."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows import measuring
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
