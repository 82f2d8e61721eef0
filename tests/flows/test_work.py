"""Work in processes of its own: heard, ended where it hangs, never left behind."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

import psutil
import pytest

from components import lifeline, stages
from edge_targets import __main__ as builder
from flows import dvc_alone, work, workers
from flows.settings import Settings
from flows.work import JobError, LostWorkerError, key_of, run_apart
from flows.workers import HungError

HANGS = "import time; time.sleep(1000)"
WORKS = "import time\nend = time.monotonic() + 2\nwhile time.monotonic() < end: pass"
TALKS = "import sys, time\nfor _ in range(20): time.sleep(0.1); print('x', file=sys.stderr, flush=True)"
STARTS_ONE = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(1000)'])"
WORKER = "from components import lifeline; import time; lifeline.hold(); print(1, flush=True); time.sleep(1000)"
MASTER = f"""
import subprocess, sys, time
from components import lifeline
lifeline.work_for_me("here")
worker = subprocess.Popen(["sh", "-c", sys.executable + " -c '{WORKER}'; true"], stdout=subprocess.PIPE)
worker.stdout.readline()
print(worker.pid, flush=True)
time.sleep(1000)
"""


def test_a_job_that_fails_says_why_in_its_own_last_words() -> None:
    arguments = ["package", "x86_avx51", "--checkpoint", "x", "--shape", "d1w100", "--quantization", "int8"]
    with pytest.raises(JobError, match="packaging failed: no target is called 'x86_avx51'; did you mean x86_avx512"):
        run_apart([*arguments, "--context", "8", "--out", "y"], "packaging")


def test_a_key_depends_on_every_fact_and_not_on_their_order() -> None:
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})
    assert key_of({"a": 1, "b": 2}) != key_of({"a": 1, "b": 3})


def of_patience(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setattr(workers, "settings", lambda: Settings(hang_minutes=seconds / 60))


@pytest.mark.parametrize("code", [HANGS, STARTS_ONE])
def test_a_worker_that_says_and_computes_nothing_is_ended_with_all_it_started(
    monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    of_patience(monkeypatch, 1)
    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(HungError, match="said and computed nothing for"):
        workers.run([sys.executable, "-c", code], lambda line: None)
    assert set(psutil.Process().children(recursive=True)) <= before


@pytest.mark.parametrize("code", [WORKS, TALKS])
def test_a_worker_that_computes_or_talks_is_waited_for(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    of_patience(monkeypatch, 1)
    assert workers.run([sys.executable, "-c", code], lambda line: None) == 0


def test_a_job_whose_process_is_killed_is_one_that_may_be_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    killed = [sys.executable, "-c", f"import os; os.kill(os.getpid(), {signal.SIGKILL})"]
    monkeypatch.setattr(work, "run", lambda command, hear: workers.run(killed, hear))
    with pytest.raises(
        LostWorkerError, match="packaging failed: its process was killed by signal 9, as the system does"
    ):
        run_apart(["package"], "packaging")


def test_a_worker_ends_with_its_master_however_that_ended_through_a_shell_too() -> None:
    master = subprocess.Popen([sys.executable, "-c", MASTER], stdout=subprocess.PIPE, text=True)
    assert master.stdout is not None
    shell = psutil.Process(int(master.stdout.readline()))
    (worker,) = shell.children()
    master.kill()
    master.wait()
    psutil.wait_procs([worker], timeout=60)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE


class HeldError(Exception):
    pass


@pytest.mark.parametrize(
    ("main", "arguments"),
    [
        (stages.main, ["data", "tiny", "--profile", "quick"]),
        (dvc_alone.main, ["version"]),
        (builder.main, ["inspect", "x86_avx2", "--package", "nowhere", "--out", "nowhere"]),
    ],
)
def test_every_kind_of_worker_holds_on_to_its_master_before_it_works(
    main: Callable[[list[str]], int], arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def held() -> None:
        raise HeldError

    monkeypatch.setattr(lifeline, "hold", held)
    with pytest.raises(HeldError):
        main(arguments)


def test_who_works_for_nobody_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(lifeline.VARIABLE, str(os.getpid()))
    lifeline.hold()
    monkeypatch.delenv(lifeline.VARIABLE)
    lifeline.hold()
    assert "lifeline" not in {thread.name for thread in threading.enumerate()}
