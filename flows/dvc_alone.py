"""One DVC process at a time in a workspace; before it starts, what a killed one left is mended.

    python -m flows.dvc_alone repro supernet@smollm2-135m

DVC writes its lock files in place, so that a kill or a full disk can leave them cut short, and every later run would fail. It
lists what it sends in a database of its own and commits that before it is whole: where it was killed then, every later push would
send what happens to be in the list, without a word.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from components import lifeline
from components.files import replace_text
from components.stages import STAGES
from components.waiting import alone
from flows.settings import settings

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_CONFLICT = re.compile(r"^(<{7}|>{7}) ", re.MULTILINE)
_MD5_OF_NOTHING = hashlib.md5(usedforsecurity=False).hexdigest()


class ConflictError(ValueError):
    """`dvc.lock` holds two branches' at once, which only its owner can settle."""


def main(arguments: list[str]) -> int:
    lifeline.hold()
    root, home = settings().root, settings().home
    with turn(home):
        try:
            mend(root, home)
        except ConflictError as error:
            sys.stderr.write(f"ERROR: {error}\n")
            return 1
        from dvc.cli import main as dvc

        sys.argv = ["dvc", *arguments]
        status: int = dvc(arguments)
        keep_lock_file(root, home)
    return status


def turn(home: Path) -> contextlib.AbstractContextManager[None]:
    """While no other DVC is at work in the workspace, nor anybody on its settings; who waits says so before it counts as hung."""
    say_every_s = min(60.0, settings().hang_minutes * 15)
    return alone(home / "dvc.lock", "DVC is at work for another onboarding in this workspace", say_every_s)


def mend(root: Path, home: Path) -> None:
    """Bring back what a killed DVC left cut short, and remove what it left half copied and what it believes is sent.

    Raises ConflictError for a lock file that is not cut short but two at once.
    """
    _mend_lock_file(root, home)
    _mend_busy_file(root)
    with contextlib.suppress(OSError), _unused(root):
        for store in (root / ".dvc" / "cache", home / "dvc-remote"):
            _remove_halves(store)
        _forget_lists(root)


def _remove_halves(store: Path) -> None:
    """Files on their way; those that were to become a clone of another and are empty under their name; runs without a result."""
    for half in store.rglob("*.tmp"):
        half.unlink(missing_ok=True)
    for kept in (store / "files" / "md5").glob("??/*"):
        if kept.stat().st_size == 0 and f"{kept.parent.name}{kept.name}" != _MD5_OF_NOTHING:
            kept.unlink(missing_ok=True)
    for run in (store / "runs").glob("??/*"):
        with contextlib.suppress(OSError):
            run.rmdir()


def stages(root: Path, home: Path) -> dict[str, Any]:
    """What dvc.lock says; while another process writes it, what it said before. Raises ConflictError."""
    now, before = _stages(root / "dvc.lock"), _stages(_kept(home))
    return {**(before or {}), **(now or {})}


def keep_lock_file(root: Path, home: Path) -> None:
    """Keep a copy of dvc.lock, unless it is cut short."""
    lock, kept = root / "dvc.lock", _kept(home)
    if _stages(lock) is not None and not (kept.is_file() and kept.read_bytes() == lock.read_bytes()):
        replace_text(kept, lock.read_text())


def _mend_lock_file(root: Path, home: Path) -> None:
    lock, kept = root / "dvc.lock", _kept(home)
    if _stages(lock) is not None:
        keep_lock_file(root, home)
    elif lock.is_file():
        replace_text(home / "dvc.lock.cut", lock.read_text(errors="replace"))
        if kept.is_file():
            replace_text(lock, kept.read_text())
        else:
            lock.unlink()


def _mend_busy_file(root: Path) -> None:
    """DVC notes which process uses which path; what names no living DVC process was left by a killed one."""
    busy = root / ".dvc" / "tmp" / "rwlock"
    if not busy.is_file():
        return
    try:
        noted = json.loads(busy.read_text())
        users = [*noted["write"].values(), *(one for several in noted["read"].values() for one in several)]
        left = not any(_is_dvc(int(user["pid"])) for user in users)
    except (ValueError, KeyError, TypeError, AttributeError):
        left = True
    if left:
        busy.unlink(missing_ok=True)


def _is_dvc(process: int) -> bool:
    import psutil

    try:
        return any("dvc" in word for word in psutil.Process(process).cmdline())
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def _forget_lists(root: Path) -> None:
    """DVC makes them anew from dvc.lock, which takes no time; after a push that sent something it drops them itself."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    with contextlib.suppress(DvcException), Repo(str(root)) as repo:
        shutil.rmtree(Path(repo.site_cache_dir) / "index" / "data", ignore_errors=True)


@contextlib.contextmanager
def _unused(root: Path) -> Iterator[None]:
    """DVC's own lock, so that nothing of a user's own `dvc` command is removed; raises OSError where one is running."""
    import zc.lockfile

    place = root / ".dvc" / "tmp" / "lock"
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = zc.lockfile.LockFile(str(place))
    except zc.lockfile.LockError as error:
        raise OSError(str(error)) from error
    try:
        yield
    finally:
        lock.close()


def _kept(home: Path) -> Path:
    return home / "dvc.lock.kept"


def _stages(lock: Path) -> Mapping[str, Any] | None:
    """None where there is no lock file, or not all of it: it ends with a line, and each of our stages with its outcome's digest."""
    try:
        text = lock.read_text()
        if _CONFLICT.search(text):
            raise ConflictError(
                f"{lock} holds a conflict of two branches; settle it (`git checkout --ours dvc.lock` or --theirs, then "
                "`dvc checkout`) and run the same command again"
            )
        return _read(text)
    except (OSError, TypeError, KeyError, IndexError, AttributeError, yaml.YAMLError):
        return None


@functools.lru_cache(maxsize=2)
def _read(text: str) -> Mapping[str, Any] | None:
    """Remembered, since every step asks; of a hundred bases Python alone would read it for more than a second."""
    found: Mapping[str, Any] = yaml.load(text, Loader=_LOADER)["stages"]  # noqa: S506  # both are safe loaders
    ours = [stage for name, stage in found.items() if name.partition("@")[0] in STAGES]
    return found if text.endswith("\n") and all("md5" in stage["outs"][0] for stage in ours) else None


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
