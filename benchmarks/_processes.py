"""Contenders in processes of their own: a command that ends, and a server that answers one question at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

from benchmarks.contenders import Contender
from edge_targets._environments import clean_environment, interpreter

_PROJECT = Path(__file__).parents[1]
_REQUIREMENTS = Path(__file__).parent / "requirements"
_LAST_WORDS = 3


class ContenderError(Exception):
    """A contender ended, or could not be made, with the reason it gave."""


def python_of(contender: Contender, environments: Path) -> Path:
    """Raises PackageError where its environment cannot be made."""
    if contender.environment is None:
        return Path(sys.executable)
    return interpreter(contender.environment, environments, _REQUIREMENTS)


def command(python: Path, verb: str, contender: Contender, *arguments: object) -> list[str]:
    words = (verb, contender.module, contender.variant, *arguments)
    return [str(python), "-m", "benchmarks.contenders", *map(str, words)]


def variables() -> dict[str, str]:
    """A contender's threads wait as its makers have them wait: nothing of ours about OpenMP is handed on."""
    kept = {
        name: value for name, value in clean_environment().items() if not name.startswith(("OMP_", "KMP_", "GOMP_"))
    }
    return kept | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}


def run(words: list[str], log: Path) -> dict[str, Any]:
    """Run to the end; what it answered. Raises ContenderError with its last words."""
    with log.open("w") as errors:
        done = subprocess.run(
            words,
            cwd=_PROJECT,
            env=variables(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            check=False,
        )
    if done.returncode != 0:
        raise ContenderError(_last_words(log, done.returncode))
    answer: dict[str, Any] = json.loads(done.stdout.decode().splitlines()[-1])
    return answer


class Server:
    """A loaded contender that waits; only what is asked runs."""

    def __init__(self, words: list[str], log: Path) -> None:
        self._log = log
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                words,
                cwd=_PROJECT,
                env=variables(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self._questions, self._answers = cast(IO[str], self._process.stdin), cast(IO[str], self._process.stdout)
        self.started = self._read()
        """`load_s`."""

    def ask(self, **question: Any) -> dict[str, Any]:
        """Raises ContenderError when it ended instead of answering."""
        try:
            self._questions.write(json.dumps(question) + "\n")
            self._questions.flush()
        except BrokenPipeError:
            raise ContenderError(_last_words(self._log, self._process.wait())) from None
        return self._read()

    def _read(self) -> dict[str, Any]:
        line = self._answers.readline()
        if not line:
            raise ContenderError(_last_words(self._log, self._process.wait()))
        answer: dict[str, Any] = json.loads(line)
        return answer

    def cpu_s(self) -> float:
        """Processor time so far, all threads together."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        with suppress(BrokenPipeError):  # it ended before it was asked to
            self._questions.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _last_words(log: Path, status: int) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    raised = any(line.startswith("Traceback") for line in lines)
    said = " | ".join(lines[-1 if raised else -_LAST_WORDS :]) or "it said nothing"
    return f"ended with {os.strerror(-status) if status < 0 else status}: {said}"


def question_of_quality(windows: list[list[int]], reference: Path) -> Mapping[str, Any]:
    return {"do": "quality", "windows": windows, "reference": str(reference.resolve())}
