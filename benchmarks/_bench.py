"""Building and judging a job, each in a process of its own, each kept so that a second run goes on from there."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._jobs import Job
from benchmarks._processes import Server, command, python_of, question_of_quality, run
from components.files import replace_text

_PROJECT = Path(__file__).parents[1]
_COMPARED_WINDOWS = 2
"""Windows that agreement is taken on: the float logits of one are 50 MB."""


class Bench:
    """Where the outcome of every step is kept, and how it is had."""

    def __init__(self, work: Path, windows: list[list[int]], threads: int, data: Path | None = None) -> None:
        self.work, self.windows, self.threads = work.resolve(), windows, threads
        self.data = data
        self._digests: dict[Path, str] = {}
        (self.work / "logs").mkdir(parents=True, exist_ok=True)

    def build(self, job: Job) -> None:
        """Fills `figures` with seconds, peak memory and size; raises ContenderError and PackageError."""
        folder = self._folder(job)
        python = python_of(job.contender, self.work / "environments")

        def made() -> dict[str, Any]:
            out = folder / "built"
            shutil.rmtree(out, ignore_errors=True)
            text = ["--data", self.data.resolve()] if self.data else []
            words = command(
                python, "build", job.contender, "--checkpoint", job.checkpoint.resolve(), "--out", out, *text
            )
            return run(words, self._log(job, "build"))

        job.figures |= _kept(folder / "build.json", made)

    def judge(self, job: Job) -> None:
        """Fills `figures` with perplexity and agreement with the float checkpoint."""
        reference = self._reference(job.checkpoint)

        def judged() -> dict[str, Any]:
            with self.serve(job, quality=True) as server:
                return server.ask(**question_of_quality(self.windows, reference))

        job.figures |= _kept(self._folder(job) / f"quality-{_digest(json.dumps(self.windows).encode())}.json", judged)

    def serve(self, job: Job, *, quality: bool = False) -> Server:
        words = command(
            python_of(job.contender, self.work / "environments"),
            "serve",
            job.contender,
            "--built",
            self._folder(job) / "built",
            "--threads",
            self.threads,
            *(["--quality"] if quality else []),
        )
        return Server(words, self._log(job, "quality" if quality else "speed"))

    def _folder(self, job: Job) -> Path:
        """Of all that decides what is built: the checkpoint, the contender, and its code and requirements or ours."""
        known = [_PROJECT / "benchmarks" / "contenders" / f"{job.contender.module}.py"]
        if job.contender.module == "ours":
            known += [*(_PROJECT / "edge_targets").rglob("*.py"), *(_PROJECT / "components").rglob("*.py")]
        if job.contender.environment:
            known += (_PROJECT / "benchmarks" / "requirements").glob(f"{job.contender.environment}*.txt")
        code = _digest(*(path.read_bytes() for path in sorted(known)))
        folder = self.work / "jobs" / f"{job.name}-{_digest(code.encode(), self._identity(job.checkpoint).encode())}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _identity(self, checkpoint: Path) -> str:
        if checkpoint not in self._digests:
            files = sorted([*checkpoint.glob("*.safetensors"), *checkpoint.glob("*.json")])
            self._digests[checkpoint] = _digest(*map(_of_file, files))
        return self._digests[checkpoint]

    def _reference(self, checkpoint: Path) -> Path:
        """Float logits of the windows that agreement is taken on; computed once a checkpoint."""
        path = (
            self.work
            / f"reference-{_digest(self._identity(checkpoint).encode(), json.dumps(self.windows).encode())}.npz"
        )
        if not path.is_file():
            from components.quiet import quiet_libraries
            from components.reference import load_checkpoint, logits_of

            quiet_libraries()
            logits = logits_of(load_checkpoint(checkpoint))
            beside = path.with_suffix(".partial.npz")
            compared: dict[str, Any] = {str(i): logits(self.windows[i]) for i in range(_COMPARED_WINDOWS)}
            np.savez(beside, **compared)
            beside.rename(path)
        return path

    def _log(self, job: Job, what: str) -> Path:
        return self.work / "logs" / f"{job.name}-{what}.log"


def _kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    if not path.is_file():
        replace_text(path, json.dumps(make()))
    known: dict[str, Any] = json.loads(path.read_text())
    return known


def _digest(*parts: bytes | str) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(hashlib.sha256(part if isinstance(part, bytes) else part.encode()).digest())
    return total.hexdigest()[:16]


def _of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
