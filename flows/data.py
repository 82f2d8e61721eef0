"""What calls DVC: reproduce a stage, push what came of it, and the revision that runs carry as lineage."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components import messages
from components.kept import forget
from components.progress import say
from components.stages import FINISHED, STAGES
from flows import dvc_alone
from flows.bases import Declared
from flows.settings import settings
from flows.workers import HungError, run
from registry.reaching import shown

_CONFIGURED = "configured"
"""What DVC calls the remote of AMOEBA_DVC_REMOTE."""
_LOCKED = ("Unable to acquire lock", "is busy, it is being blocked by")
_LOCK_WAITS_S = (1, 2, 4, 8, 16, 32)
_KILLED = ("exited with -9", "exited with 137")
_PASSING = (
    "timed out",
    "timeout",
    "connection",
    "temporary failure",
    "unreachable",
    "503",
    "slowdown",
    *_KILLED,
)
"""In what DVC says: a network, or a stage that was killed."""


class StageError(Exception):
    """DVC, or a stage it ran, failed; what it said is already on standard error."""


class PassingError(StageError):
    """DVC failed for what may have passed by the next try: a network, a process that was killed or hung."""


def reproduce(stage: str, base: Declared) -> Path:
    """Bring one stage's folder up to date and return it; what has not changed is not computed again.

    The folder is hashed before anyone reads it. One that was damaged since comes from DVC's cache, or is computed again where
    that is damaged too. Raises StageError where neither helps.
    """
    folder = base.artifacts / stage
    for attempt in range(3):
        if attempt == 2:
            _drop_damaged_copies(folder)
        _dvc("repro", f"{stage}@{base.name}")
        if content_of(folder) == revision(stage, base):
            for finished in (settings().root / FINISHED).glob(f"{base.name}.{stage}.*"):
                if finished.is_dir():
                    forget(finished)
            return folder
        say(f"{stage}: {folder} is not what dvc.lock says of it; bringing it back")
        shutil.rmtree(folder, ignore_errors=True)
    raise StageError(f"{folder} is not what dvc.lock says of it, however often it is made; is the disk sound?")


def check(stage: str, base: Declared) -> None:
    """Raises StageError where a stage's folder is not what dvc.lock says: changed by hand, or not pulled with the lock file."""
    folder = base.artifacts / stage
    if content_of(folder) != revision(stage, base):
        raise StageError(
            f"{folder} is not what dvc.lock says of it; `dvc pull {stage}@{base.name}` brings it where it was pushed, and "
            f"`amoeba onboard {base.source}` makes it"
        )


def push(base: Declared) -> None:
    """Send the base's three folders to AMOEBA_DVC_REMOTE, else to DVC's default remote; nothing goes twice.

    The former is `configured` for DVC: `dvc pull --remote configured` reads it, and what else is set of it stays.
    """
    to: tuple[str, ...] = ()
    local, place = _local_settings(), settings().dvc_remote
    if place:
        to = ("--remote", _CONFIGURED)
        wanted = {"url": place if "://" in place else str(settings().root / place), "verify": "true"}
        if not wanted.items() <= local["remote"].get(_CONFIGURED, {}).items():
            _configure(wanted)
    elif local["core"].get("remote") == _CONFIGURED:
        say(f"AMOEBA_DVC_REMOTE is not set: DVC's default is the remote {_CONFIGURED!r} no longer")
        _dvc("config", "--quiet", "--local", "--unset", "core.remote")
    _dvc("push", *to, *(f"{stage}@{base.name}" for stage in STAGES))


def _local_settings() -> Mapping[str, Any]:
    """What `.dvc/config.local` says."""
    known: Mapping[str, Any] = _settings().load_one("local")
    return known


def _configure(remote: Mapping[str, str]) -> None:
    """As `dvc config --local` does it, whose command line every user of the machine would read: an address may hold a password."""
    from dvc.config import ConfigError

    try:
        with dvc_alone.turn(settings().home), _settings().edit("local") as local:
            local["remote"].setdefault(_CONFIGURED, {}).update(remote)
    except ConfigError as error:
        raise StageError(shown(f"AMOEBA_DVC_REMOTE is no remote to DVC: {error}")) from None


def _settings() -> Any:
    from dvc.config import Config

    return Config(str(settings().root / ".dvc"), validate=False)


def revision(stage: str, base: Declared) -> str:
    """The content digest DVC locked for a stage's folder; raises StageError before the stage has run."""
    try:
        digest: str = dvc_alone.stages(settings().root, settings().home)[f"{stage}@{base.name}"]["outs"][0]["md5"]
    except KeyError:
        raise StageError(f"{stage} of {base.name} has not been computed; run `amoeba onboard {base.source}`") from None
    return digest


def lineage(base: Declared) -> dict[str, str]:
    """The content digests of all three stages, and one over them."""
    digests = {stage: revision(stage, base) for stage in STAGES}
    whole = hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()
    return {**{f"{stage}_revision": digest for stage, digest in digests.items()}, "dvc_revision": whole}


def content_of(folder: Path) -> str:
    """The digest that DVC gives a folder: MD5 over the list of its files' MD5 and paths."""
    files = [
        {"md5": _md5(path), "relpath": path.relative_to(folder).as_posix()}
        for path in folder.rglob("*")
        if path.is_file()
    ]
    listed = json.dumps(sorted(files, key=lambda file: file["relpath"]), sort_keys=True)
    return hashlib.md5(listed.encode(), usedforsecurity=False).hexdigest() + ".dir"


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _drop_damaged_copies(folder: Path) -> None:
    """Remove every file of DVC's cache that is not what its name says, so that the stage is computed again."""
    say(f"{folder.name}: looking through DVC's cache")
    for kept in (settings().root / ".dvc" / "cache" / "files" / "md5").glob("??/*"):
        if not kept.name.startswith(".") and _md5(kept) != f"{kept.parent.name}{kept.name}".removesuffix(".dir"):
            kept.unlink(missing_ok=True)


def _dvc(*arguments: str) -> None:
    """Run one dvc command at a time in this workspace; another dvc process's lock is waited for, a minute at most."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    settings().home.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-P", "-m", "flows.dvc_alone", *arguments]
    for wait_s in (*_LOCK_WAITS_S, None):
        said: list[str] = []

        def hear(line: str, said: list[str] = said) -> None:
            line = shown(line)
            said.append(messages.words(line))
            sys.stderr.write(messages.passed_on(line))

        try:
            status = run(command, hear, settings().root, environment)
        except HungError as error:
            raise PassingError(f"dvc {' '.join(arguments)} failed: {error}") from error
        if status == 0 and not any(line.startswith("ERROR:") for line in said):
            return  # DVC tells some failures only in words
        if wait_s is None or not any(words in line for line in said for words in _LOCKED):
            break
        time.sleep(wait_s)
    # What a stage says of itself tells more than what DVC says of the stage.
    errors = sorted((line.strip() for line in said if line.startswith(("error:", "ERROR:"))), reverse=True)
    reason = errors[0].partition(": ")[2] if errors else f"killed by signal {-status}" if status < 0 else "see above"
    if arguments[-1].startswith("supernet@") and any(words in line for line in errors for words in _KILLED):
        reason += "; where memory ran out, finetune.accumulate in params.yaml has a batch read in more parts"
    passing = status < 0 or any(words in line.lower() for line in errors for words in _PASSING)
    raise (PassingError if passing else StageError)(f"dvc {' '.join(arguments)} failed: {reason}")
