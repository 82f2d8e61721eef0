"""The destination of a pull: what is beside it while it is made, how it gets its name, and how it is taken back.

Beside a folder `model` there may be `.model.partial-*`, what is being made; `.model.previous`, what `model` was before; and, for
the moment of a change, `.model.aside`. Every change is a row of renames, after each of which a process may be killed:

1. Replacing: previous -> aside, model -> previous, partial -> model; aside is removed, as `.model.aside-*` what cannot be.
2. Rolling back: model -> aside, previous -> model, aside -> previous.
3. Recovering, before anything else: a missing model is its previous; aside becomes a missing previous, and is removed where there
   is one. Partials are removed whose maker is gone: who makes one holds its lock. A rollback that began is ended so, and the
   same command run again does not swap once more.
4. 1 to 3 happen under the lock of the folder around them, so that processes at once do not recover each other's renames.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from registry import naming, signature
from registry.errors import DamagedError, NotFoundError, RefusedError, RegistryError
from registry.manifest import Manifest, read_manifest
from registry.paths import UNLISTED
from registry.trust import NOBODY, Trust

_LOCK_SECONDS = 60


def previous_of(to: Path) -> Path:
    """Where what `to` was before is kept."""
    return to.with_name(f".{to.name}.previous")


def recover(to: Path) -> None:
    """Put right what a pull or a rollback of `to` left when it was killed."""
    if to.parent.is_dir():
        with _alone(to.parent):
            _recover(to)


@contextlib.contextmanager
def making(to: Path) -> Iterator[Path]:
    """A folder beside `to` to fill; it is removed at the end unless it was placed. Raises as `check_replaceable` does."""
    to.parent.mkdir(parents=True, exist_ok=True)
    with _alone(to.parent):  # another process may be about to rename what is looked at
        check_replaceable(to)
        partial = Path(tempfile.mkdtemp(prefix=f".{to.name}.partial-", dir=to.parent))
        lock = os.open(partial, os.O_RDONLY | os.O_CLOEXEC)
        _lock(lock)
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        os.close(lock)


def place(partial: Path, to: Path, holds: Callable[[], bool]) -> None:
    """Rename into place what is whole; the folder before is kept as previous, and put back when renaming fails.

    Where another process has placed the same meanwhile, which `holds` tells, that stays.
    """
    partial.chmod(0o755)
    for root, _, names in os.walk(partial):
        for name in names:
            sync(Path(root) / name)
        sync(Path(root))
    with _alone(to.parent):
        _recover(to)
        if holds():
            return
        check_replaceable(to)
        try:
            _replace(partial, to)
        except BaseException:
            _recover(to)
            raise
        sync(to.parent)


def roll_back(to: Path, registered_model: str, trust: Trust = NOBODY) -> Manifest:
    """Swap `to` with its previous, which is verified first; needs no registry. What was there is the previous then.

    One that was killed is ended, and no other begun. Raises NotFoundError where there is none, DamagedError where it is not
    whole, SignatureError where nobody who is trusted by now signed it, RefusedError where it is another model's.
    """
    to = Path(os.path.abspath(to))
    if not to.parent.is_dir():
        raise _nothing_before(to)
    with _alone(to.parent):
        was_ended, previous, aside = _recover(to), previous_of(to), _aside_of(to)
        if not previous.is_dir() or previous.is_symlink() or not os.path.lexists(to):
            raise _nothing_before(to)
        wanted = to if was_ended else previous
        manifest = read_manifest(wanted)
        naming.check_same(registered_model, manifest.model, manifest.target)
        signature.check(signature.read_signature(wanted), manifest, trust)
        manifest.verify(wanted)
        if was_ended:
            return manifest
        check_replaceable(to)
        try:
            to.rename(aside)
            previous.rename(to)
            aside.rename(previous)
        except OSError:
            if not _recover(to):
                raise
        sync(to.parent)
    return manifest


def manifest_before(to: Path) -> Manifest:
    """Of what rolling back brings, or has brought where that was killed; raises as `read_manifest` does."""
    previous = previous_of(to)
    return read_manifest(previous if os.path.lexists(previous) else to)


def check_replaceable(to: Path) -> None:
    """Only an empty folder, or one that holds an artifact and nothing else, is ever replaced: never someone's own files.

    An artifact's files may be damaged or gone. What Python keeps of modules that were run there is nobody's.
    """
    if not os.path.lexists(to):
        return
    no_artifact = RefusedError(f"{to} exists and holds no pulled artifact; choose another --to, or remove it")
    if to.is_symlink():
        raise no_artifact
    if to.is_dir() and not any(to.iterdir()):
        return
    try:
        listed = {entry.path for entry in read_manifest(to).files}
    except (DamagedError, RefusedError) as error:
        raise no_artifact from error
    own = min(_names(to) - listed - set(UNLISTED), default=None)
    if own is not None:
        raise RefusedError(
            f"{to} holds {own}, which is not of the artifact pulled there; move it, or choose another --to"
        )


def _names(folder: Path) -> set[str]:
    """Of every file and link below."""
    found: set[str] = set()
    for root, folders, names in os.walk(folder):
        links = [name for name in folders if Path(root, name).is_symlink()]
        found.update(Path(root, name).relative_to(folder).as_posix() for name in (*names, *links))
        folders[:] = [name for name in folders if name != "__pycache__"]
    return found


def write(path: Path, content: Callable[[], bytes | None], to: Path) -> None:
    """A small file in or beside `to`, whole or not at all; what a kill left of one is removed by the next.

    What it holds is asked while nobody else changes it; nothing is written for None.
    """
    made = to.with_name(f".{to.name}.new")
    with _alone(to.parent):
        asked = content()
        if asked is None:
            return
        made.unlink(missing_ok=True)
        with made.open("xb") as file:  # never through a link that somebody put there
            file.write(asked)
            file.flush()
            os.fsync(file.fileno())
        made.replace(path)
        sync(path.parent)


def sync(path: Path) -> None:
    """Onto the disk, whatever happens to the power then."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _replace(partial: Path, to: Path) -> None:
    previous, aside, replaces = previous_of(to), _aside_of(to), to.exists()
    if replaces:
        if previous.exists():
            previous.rename(aside)
        to.rename(previous)
    try:
        partial.rename(to)
    except BaseException:
        if replaces:
            previous.rename(to)
        raise
    _discard(aside)


def _discard(aside: Path) -> None:
    """Out of the way, and off the disk as far as its files let themselves be removed: one that does not stops no later pull."""
    if aside.exists():
        aside.rename(aside.with_name(f"{aside.name}-{secrets.token_hex(4)}"))
    for discarded in aside.parent.glob(f"{glob.escape(aside.name)}-*"):
        shutil.rmtree(discarded, ignore_errors=True)


def _recover(to: Path) -> bool:
    """Whether that ended a rollback: a pull that was killed with something aside left its partial, or all three others."""
    previous, aside = previous_of(to), _aside_of(to)
    partials = [path for path in to.parent.iterdir() if path.name.startswith(f".{to.name}.partial-")]
    left = [path for path in partials if not _is_held(path)]
    ends_rollback = aside.is_dir() and not left and not (previous.is_dir() and os.path.lexists(to))
    if (partials or aside.is_dir()) and previous.is_dir() and not os.path.lexists(to):
        previous.rename(to)
    if aside.is_dir() and not previous.is_dir():
        aside.rename(previous)
    _discard(aside)
    for path in left:
        shutil.rmtree(path, ignore_errors=True)
    return ends_rollback


def _nothing_before(to: Path) -> NotFoundError:
    return NotFoundError(f"{to} has nothing to go back to: no pull has replaced it; pull an older --version")


def _is_held(partial: Path) -> bool:
    """Whether a living process makes it; what cannot be told is left alone."""
    try:
        handle = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        return _lock(handle) is not True
    finally:
        os.close(handle)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder's own lock: no file is left, and a killed process holds it no longer."""
    handle, until = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), time.monotonic() + _LOCK_SECONDS
    try:
        while _lock(handle) is False:
            if time.monotonic() > until:
                raise RegistryError(f"another process is changing {folder}; wait for it, then run it again")
            time.sleep(0.02)
        yield
    finally:
        os.close(handle)


def _lock(handle: int) -> bool | None:
    """Until it is closed; False where another process holds it, None where the file system has no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise
        return None
    return True


def _aside_of(to: Path) -> Path:
    return to.with_name(f".{to.name}.aside")
