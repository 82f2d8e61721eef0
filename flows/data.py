"""What calls DVC: reproduce a stage, push what came of it, and the revision that runs carry as lineage."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import yaml
from filelock import FileLock

from components.files import replace_text
from flows.bases import Declared
from flows.settings import settings

STAGES = ("data", "selection", "supernet")
_LOCKED = "Unable to acquire lock"
_LOCK_WAITS_S = (1, 2, 4, 8, 16, 32)


class StageError(Exception):
    """DVC, or a stage it ran, failed; what it said is already on standard error."""


def reproduce(stage: str, base: Declared) -> Path:
    """Bring one stage's folder up to date and return it; what has not changed is not computed again."""
    _dvc("repro", f"{stage}@{base.name}")
    return base.artifacts / stage


def push(base: Declared) -> None:
    """Send the base's three folders to the remote; nothing goes twice."""
    if settings().dvc_remote:
        _dvc("remote", "add", "--quiet", "--local", "--force", "--default", "configured", str(settings().dvc_remote))
        _dvc("remote", "modify", "--quiet", "--local", "configured", "verify", "true")
    _dvc("push", "--quiet", *(f"{stage}@{base.name}" for stage in STAGES))


def revision(stage: str, base: Declared) -> str:
    """The content digest DVC locked for a stage's folder; raises StageError before the stage has run."""
    lock = settings().root / "dvc.lock"
    stages = yaml.safe_load(lock.read_text())["stages"] if lock.is_file() else {}
    try:
        digest: str = stages[f"{stage}@{base.name}"]["outs"][0]["md5"]
    except KeyError:
        raise StageError(f"{stage} of {base.name} has not been computed; run `amoeba onboard {base.source}`") from None
    return digest


def lineage(base: Declared) -> dict[str, str]:
    """The content digests of all three stages, and one over them."""
    digests = {stage: revision(stage, base) for stage in STAGES}
    whole = hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()
    return {**{f"{stage}_revision": digest for stage, digest in digests.items()}, "dvc_revision": whole}


def _mend_lock_file() -> None:
    """DVC writes dvc.lock in place, so a full disk or a kill can leave it cut short; the last whole one comes back."""
    lock, kept = settings().root / "dvc.lock", settings().home / "dvc.lock.kept"
    if _is_whole(lock):
        if not kept.is_file() or kept.read_bytes() != lock.read_bytes():
            replace_text(kept, lock.read_text())
    elif lock.is_file() and kept.is_file():
        replace_text(lock, kept.read_text())
    else:
        lock.unlink(missing_ok=True)


def _is_whole(lock: Path) -> bool:
    try:
        stages = yaml.safe_load(lock.read_text())["stages"]
        return all("md5" in stage["outs"][0] for stage in stages.values())
    except (OSError, TypeError, KeyError, IndexError, AttributeError, yaml.YAMLError):
        return False


def _dvc(*arguments: str) -> None:
    """Run one dvc command at a time in this workspace; another dvc process's lock is waited for, a minute at most."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    settings().home.mkdir(parents=True, exist_ok=True)
    for wait_s in (*_LOCK_WAITS_S, None):
        with FileLock(settings().home / "dvc.lock"):
            _mend_lock_file()
            outcome = subprocess.Popen(
                [sys.executable, "-m", "dvc", *arguments],
                cwd=settings().root,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            said = []
            assert outcome.stderr is not None
            for line in outcome.stderr:
                said.append(line)
                sys.stderr.write(line)
            outcome.wait()
        if outcome.returncode == 0 and not any(line.startswith("ERROR:") for line in said):
            return  # DVC tells some failures only in words
        if wait_s is None or not any(_LOCKED in line for line in said):
            break
        time.sleep(wait_s)
    # What a stage says of itself tells more than what DVC says of the stage.
    errors = sorted((line.strip() for line in said if line.startswith(("error:", "ERROR:"))), reverse=True)
    reason = errors[0].partition(": ")[2] if errors else "see above"
    raise StageError(f"dvc {' '.join(arguments)} failed: {reason}")
