"""What a killed run left: processes, and folders half made. The next run clears it away."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import psutil

from components import kept, lifeline
from components.progress import say
from flows.settings import settings

_FOLDERS = ("bases", "built", "finished", "packages", "subnets")
"""Of the cache: where things are made beside and renamed."""
_UPLOADING = ".artifact.uploading.*"
"""MLflow's name, in the embedded registry, for a file that is being copied."""
_UPLOAD_IS_DEAD_S = 60.0
"""Without a byte more."""


def clean() -> None:
    """End what works for a process that is gone, Prefect's embedded server for one, and remove what was half made."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if _is_lost(process):
                say(f"process {process.pid} was left by a run that was killed; ending it")
                process.kill()
    for name in _FOLDERS:
        kept.sweep(settings().cache / name)
    root = settings().artifact_root
    if root is not None:
        for half in Path(root).rglob(_UPLOADING):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - half.stat().st_mtime > _UPLOAD_IS_DEAD_S:
                    half.unlink()


def _is_lost(process: psutil.Process) -> bool:
    """Whether a process was started in this workspace for one that is no more."""
    if process.uids().real != psutil.Process().uids().real:
        return False
    known = process.environ()
    master = known.get(lifeline.VARIABLE, "")
    if not master.isdigit() or known.get(lifeline.PLACE) != str(settings().root):
        return False
    return int(master) != process.pid and not is_running(int(master))


def is_running(process: int) -> bool:
    try:
        return bool(psutil.Process(process).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
