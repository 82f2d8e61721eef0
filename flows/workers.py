"""A worker process: heard line by line, ended where it hangs, never left behind."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from components import lifeline, messages
from flows import traces
from flows.settings import settings

_LOOKS = 20
"""How often a worker is looked at before it counts as hung."""
_BUSY_SHARE = 0.01
"""Of a processor: what uses less waits for something."""


class HungError(Exception):
    """A worker that said and computed nothing for too long, and was ended."""


def run(
    command: Sequence[str],
    hear: Callable[[str], None],
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> int:
    """Run a command to its end, each line of its standard error given to `hear`; its exit status, minus a signal's number.

    Raises HungError for one that neither said nor computed anything for `AMOEBA_HANG_MINUTES`.
    """
    with traces.worker(command) as span:
        known = traces.reaches(messages.reaches(lifeline.reaches(os.environ if environment is None else environment)))
        status = _run(command, hear, folder, known)
        traces.ended(span, status)
    return status


def _run(
    command: Sequence[str], hear: Callable[[str], None], folder: Path | None, environment: Mapping[str, str]
) -> int:
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as process:
        assert process.stderr is not None
        try:
            with _watched(process, settings().hang_minutes * 60) as watch:
                for line in process.stderr:
                    watch.heard()
                    hear(line)
                process.wait()
        except BaseException:
            _end(process.pid)
            raise
    if watch.hung:
        raise HungError(f"it said and computed nothing for {settings().hang_minutes:g} minutes, and was ended")
    return process.returncode


class _Watch:
    """Looks at a worker and all it started: lines said and processor time used since the last look."""

    def __init__(self, process: int, hang_s: float) -> None:
        self._process, self._every_s = process, hang_s / _LOOKS
        self._heard = False
        self.ended = threading.Event()
        self.hung = False

    def heard(self) -> None:
        self._heard = True

    def look(self) -> None:
        """Until the worker ends, or hangs and is ended."""
        idle, used_s = 0, 0.0
        while not self.ended.wait(self._every_s):
            before_s, used_s = used_s, _processor_seconds(self._process)
            busy = self._heard or abs(used_s - before_s) > _BUSY_SHARE * self._every_s
            self._heard, idle = False, 0 if busy else idle + 1
            if idle >= _LOOKS:
                self.hung = True
                _end(self._process)
                return


@contextlib.contextmanager
def _watched(process: subprocess.Popen[str], hang_s: float) -> Iterator[_Watch]:
    watch = _Watch(process.pid, hang_s)
    looking = threading.Thread(target=watch.look, daemon=True)
    looking.start()
    try:
        yield watch
    finally:
        watch.ended.set()
        looking.join()


def _family(process: int) -> list[psutil.Process]:
    """A process and all that it started, those first."""
    try:
        root = psutil.Process(process)
        return [*root.children(recursive=True), root]
    except psutil.NoSuchProcess:
        return []


def _processor_seconds(process: int) -> float:
    used_s = 0.0
    for one in _family(process):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            used_s += times.user + times.system
    return used_s


def _end(process: int) -> None:
    for one in _family(process):
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
