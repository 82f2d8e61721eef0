"""What fails is noted with its reason and does not lose the rest; another try is made only where it can help."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from fixtures.tiny import make_model
from typer.testing import CliRunner

from components import lifeline
from components.base import Base
from flows import bases, lost, onboard, room
from flows.bases import Declared, declare
from flows.cli import app
from flows.data import PassingError, StageError
from flows.onboard import Outcome
from flows.onboarding_run import Ending
from flows.retrying import can_help
from flows.settings import Settings
from flows.space import SpaceError
from flows.work import JobError, LostWorkerError
from registry.errors import NotFoundError, UnreachableError

FULL = {"perplexity": {"value": 20.0}, "accuracy": {"value": 0.5}}


def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for module in (bases, lost, onboard, room):
        monkeypatch.setattr(module, "settings", lambda: Settings(workspace=tmp_path))
    (tmp_path / "bases.yaml").write_text("bases: {}\n")
    return tmp_path


def base(name: str, folder: Path) -> Base:
    return Base(name, name, "1", "f" * 64, "mit", folder)


def onboarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: dict[str, str]) -> tuple[Any, list[str]]:
    """An onboarding for targets a, b and c with every step made up; `fails` says which raise."""
    done: list[str] = []

    def step(name: str, value: Any = None) -> Any:
        if name in fails:
            raise JobError(fails[name])
        done.append(name)
        return value

    class Build:
        def __call__(self, declared: Declared, folder: Path, target: str) -> Any:
            return JobError(fails[f"build {target}"]) if f"build {target}" in fails else target

        def submit(self, *given: Any) -> Any:
            return SimpleNamespace(result=lambda raise_on_failure: self(*given))

    workspace(tmp_path, monkeypatch)
    for name in ("reproduce", "register_supernet", "show"):
        monkeypatch.setattr(onboard, name, lambda *given, name=name: step(name, "1"))
    monkeypatch.setattr(onboard, "build", Build())
    monkeypatch.setattr(onboard, "measure_full_model", lambda *given: step("full model", FULL))
    monkeypatch.setattr(onboard, "release", lambda declared, target, alias: step(f"release {target}", target))
    monkeypatch.setattr(onboard, "push", lambda *given: step("push"))
    make_model().config.save_pretrained(tmp_path)
    return onboard._onboard(base("tiny", tmp_path), "quick", ("a", "b", "c")), done


def test_what_fails_is_told_with_its_reason_and_the_rest_is_released(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails = {"build a": "no room", "release b": "too far from float"}
    outcome, done = onboarded(tmp_path, monkeypatch, fails)
    assert outcome.failed == {"a": "no room", "b": "too far from float"}
    assert outcome.released == ("c",)
    assert (outcome.full_perplexity, done[-2:]) == (20.0, ["push", "show"])


def test_a_remote_that_is_away_and_a_full_model_that_fails_lose_no_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome, done = onboarded(tmp_path, monkeypatch, {"push": "no route", "full model": "killed"})
    assert outcome.failed == {"push": "no route", "full model": "killed"}
    assert outcome.released == ("a", "b", "c")
    assert (outcome.full_perplexity, outcome.full_accuracy) == (None, None)
    assert "show" not in done


def test_room_for_the_base_and_every_target_is_asked_for_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def full(*given: Any) -> None:
        asked.append(given)
        raise SpaceError("too full")

    monkeypatch.setattr(onboard, "ensure_space", full)
    with pytest.raises(SpaceError, match="too full"):
        onboarded(tmp_path, monkeypatch, {})
    assert asked == [(tmp_path, base("tiny", tmp_path).weights, 3)]
    assert (tmp_path / "bases.yaml").read_text() == "bases: {}\n"


@pytest.mark.parametrize(
    ("failed", "ending", "status"),
    [({}, "complete", 0), ({"x86_avx2": "no room"}, "incomplete", 1), ({"push": "no route"}, "incomplete", 1)],
)
def test_an_onboarding_that_lost_something_ends_as_incomplete_and_the_command_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failed: dict[str, str], ending: str, status: int
) -> None:
    recorded = Ending()

    @contextmanager
    def kept(*given: Any) -> Iterator[Ending]:
        yield recorded

    monkeypatch.setenv("AMOEBA_WORKSPACE", str(workspace(tmp_path, monkeypatch)))
    monkeypatch.setattr("flows.asked.check_onboarding", lambda *given: None)
    monkeypatch.setattr("flows.own_server.serve_this_command", lambda: None)
    monkeypatch.setattr(onboard, "find_base", lambda source: base("tiny", tmp_path))
    for checked in ("check_profile", "check_numbers"):
        monkeypatch.setattr(onboard, checked, lambda profile: None)
    monkeypatch.setattr(onboard, "one_at_a_time", nullcontext)
    monkeypatch.setattr(onboard.lost_runs, "end_those_of_killed_processes", lambda: None)
    monkeypatch.setattr(onboard.onboarding_run, "recorded", kept)
    monkeypatch.setattr(onboard, "_onboard", lambda *given: Outcome("tiny", "1", None, None, (), failed))
    monkeypatch.setattr(onboard, "onboard", onboard.onboard.fn)
    done = CliRunner().invoke(app, ["onboard", "tiny", "--target", "x86_avx2"])
    assert (done.exit_code, recorded.outcome) == (status, ending)
    assert all(f"error: {what} failed: {reason}" in done.output for what, reason in failed.items())


@pytest.mark.parametrize(
    ("error", "helps"),
    [
        (LostWorkerError("killed"), True),
        (PassingError("connection reset"), True),
        (UnreachableError("no answer"), True),
        (JobError("no operator"), False),
        (StageError("too little text"), False),
        (NotFoundError("no such model"), False),
        (ValueError("a bad input"), False),
    ],
)
def test_only_what_may_pass_is_tried_again(error: Exception, helps: bool) -> None:
    state = SimpleNamespace(result=lambda raise_on_failure: error)
    assert can_help(None, SimpleNamespace(name="release"), state) is helps


def test_bases_that_are_declared_at_once_are_all_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace(tmp_path, monkeypatch)
    names = [f"base-{number}" for number in range(8)]
    threads = [threading.Thread(target=declare, args=(base(name, tmp_path), "quick")) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(bases.entries()["bases"]) == set(names)


def test_what_mlflow_was_copying_goes_once_nothing_more_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = workspace(tmp_path, monkeypatch) / ".amoeba" / "mlflow-artifacts" / "run" / "report"
    folder.mkdir(parents=True)
    for name, age_s in {".artifact.uploading.old": 120, ".artifact.uploading.new": 0, "index.html": 120}.items():
        (folder / name).write_text("")
        os.utime(folder / name, times=(time.time() - age_s,) * 2)
    lost.clean()
    assert {path.name for path in folder.iterdir()} == {".artifact.uploading.new", "index.html"}


def test_what_works_for_a_process_that_is_gone_is_ended_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = str(workspace(tmp_path, monkeypatch).resolve())
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    known = {
        "left": {lifeline.VARIABLE: str(gone.pid), lifeline.PLACE: place},
        "elsewhere": {lifeline.VARIABLE: str(gone.pid), lifeline.PLACE: "/elsewhere"},
        "mine": {lifeline.VARIABLE: str(os.getpid()), lifeline.PLACE: place},
        "nobody's": {},
    }
    sleeps = [sys.executable, "-c", "import time; print(1, flush=True); time.sleep(1000)"]
    started = {
        name: subprocess.Popen(sleeps, env=os.environ | one, stdout=subprocess.PIPE) for name, one in known.items()
    }
    try:
        for one in started.values():
            assert one.stdout is not None
            one.stdout.readline()
        lost.clean()
        assert started["left"].wait(60) == -9
        assert [psutil.Process(one.pid).is_running() for name, one in started.items() if name != "left"] == [True] * 3
        assert [one.poll() for name, one in started.items() if name != "left"] == [None] * 3
    finally:
        for one in started.values():
            one.kill()
            one.wait()
