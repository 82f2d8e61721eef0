"""A process that forks a child per line of its input, so that hundreds can be killed in seconds.

It has imported everything once, and has no threads. The answer to a line is the child's process id. The line `wait` is answered
with how every child since the last `wait` ended: 0, 1 with the error it printed, or minus the signal.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

STEPS = ("open", "write", "fsync", "rename", "replace", "unlink", "mkdir", "rmdir", "ftruncate", "utime")
"""What `os` is asked for; a process may end before any of them."""

Told = Callable[[str, Any], Any]


def serve(run: Callable[[str], None]) -> None:
    """Until the input ends; a child's error is printed."""
    children: list[int] = []
    for line in sys.stdin:
        if line.strip() == "wait":
            codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
            children.clear()
            print(json.dumps(codes), flush=True)  # noqa: T201
            continue
        child = os.fork()
        if child == 0:
            os._exit(_child(run, line))
        children.append(child)
        print(child, flush=True)  # noqa: T201


def _child(run: Callable[[str], None], line: str) -> int:
    try:
        run(line)
    except Exception as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
        return 1
    return 0


def before_steps(act: Callable[[int, str], None]) -> Told:
    """Have `act` told the number and name of every step before it is taken, in this process, for good.

    What is returned makes a step of any other function.
    """
    count = 0

    def told(step: str, ordinary: Any) -> Any:
        def taken(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            act(count, step)
            return ordinary(*arguments, **options)

        return taken

    for step in STEPS:
        setattr(os, step, told(step, getattr(os, step)))
    return told


def kill_at(number: int) -> Callable[[int, str], None]:
    """SIGKILL before the step of that number."""

    def act(count: int, step: str) -> None:
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return act


class Forks:
    """Such a process, from outside: a module of this folder, whose children are asked for with dataclasses."""

    def __init__(self, module: str, said: Path, *words: str) -> None:
        self._said = said
        path = os.pathsep.join([str(Path(__file__).parents[2]), str(Path(__file__).parents[1])])
        with said.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"faults.{module}", *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, "PYTHONPATH": path, "MLFLOW_DISABLE_TELEMETRY": "true"},
            )

    def start(self, asked: Any) -> int:
        """Start a child; its process id."""
        return int(self._ask(json.dumps(asdict(asked))))

    def wait(self) -> list[int]:
        codes: list[int] = json.loads(self._ask("wait"))
        return codes

    def said(self) -> str:
        """What the children wrote."""
        return self._said.read_text()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the forking process ended: {self.said()[-2000:]}")
        return answer
