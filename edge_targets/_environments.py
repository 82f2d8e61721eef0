"""Environments of their own, for exporters and runtimes whose pins disagree with ours.

An environment is described by a committed file, `requirements/<name>.txt`, and is nothing but what that file says:

1. every line pins one version and the SHA-256 of its files, and pip refuses all else (`--require-hashes --no-deps`);
2. a distribution built from its sources finds its build tools in `<name>.build.txt`, pinned likewise and installed first
   (a build isolated by pip would take whatever is newest, with no hash at all);
3. `# lent: torch==2.13.0` links that distribution of ours, and what it requires that the file does not pin, into the
   environment. The hash of torch depends on the machine: an index's own build, a wheel for processors only, one for another
   version of CUDA. What runs this project has one that works here, of gigabytes, so nothing is fetched and the version is
   checked. A line for each of its hashes would have to be followed by the CUDA packages that some of the builds want.

It is made once and kept under the digest of all that decided it. A file written last says that it is whole; one that was
killed half-way has none and is made again.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.metadata
import importlib.util
import logging
import os
import re
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from components.files import replace_text
from edge_targets._target import PackageError

REQUIREMENTS = Path(__file__).parent / "requirements"
_WHOLE = "whole"
_LENT = re.compile(r"^# lent: (\S+)==(\S+)$", re.MULTILINE)
_PINNED = re.compile(r"^([A-Za-z0-9][\w.-]*)==", re.MULTILINE)
_log = logging.getLogger("amoeba.environments")


def interpreter(name: str, cache: Path, folder: Path = REQUIREMENTS) -> Path:
    """The Python of the environment that `folder/<name>.txt` describes, made under `cache` where it is not there yet.

    Raises PackageError for a name that has no file, for what is lent and not here, and when pip fails: with pip's reason
    and the line that shows all of it.
    """
    wanted = _Requirements.read(name, folder)
    cache.mkdir(parents=True, exist_ok=True)
    place = cache.resolve() / f"{name}-{wanted.digest}"
    python = place / "bin" / "python"
    if _is_whole(place):
        os.utime(place)  # it is used, for whoever makes room
        return python
    with FileLock(place.with_name(f".{place.name}.lock")):
        if not _is_whole(place):
            _make(place, python, wanted)
    return python


def clean_environment() -> dict[str, str]:
    """This process's variables without those that would show another environment's modules to a child."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}


@dataclass(frozen=True)
class _Requirements:
    """What an environment is made of."""

    name: str
    file: Path
    tools: Path | None
    """What building from sources takes, where something is built."""
    lent: tuple[importlib.metadata.Distribution, ...]

    @classmethod
    def read(cls, name: str, folder: Path) -> _Requirements:
        file, tools = folder / f"{name}.txt", folder / f"{name}.build.txt"
        if not file.is_file():
            known = sorted(path.stem for path in folder.glob("*.txt") if not path.stem.endswith(".build"))
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known) or 'none'}"
            raise PackageError(f"no environment is called {name!r}; {hint}")
        return cls(name, file, tools if tools.is_file() else None, tuple(_lent(name, file.read_text())))

    @property
    def digest(self) -> str:
        """Of both files, of what is lent and where it is, and of the Python that the environment is made with."""
        total = hashlib.sha256(f"{sys.version}\0{sys.base_prefix}\0".encode())
        for file in (self.file, self.tools):
            total.update(file.read_bytes() if file else b"\0")
        for distribution in self.lent:
            total.update(f"{distribution.name}=={distribution.version}\0{distribution.locate_file('')}\0".encode())
        return total.hexdigest()[:16]


def _lent(name: str, text: str) -> Iterator[importlib.metadata.Distribution]:
    """The distributions that a file borrows, with all they require here that it does not pin itself."""
    seen: set[str] = {canonicalize_name(pinned) for pinned in _PINNED.findall(text)}
    for wanted, version in _LENT.findall(text):
        try:
            given = importlib.metadata.version(wanted)
        except importlib.metadata.PackageNotFoundError:
            given = "none"
        if given.split("+")[0] != version:
            raise PackageError(
                f"the environment {name} borrows {wanted} {version} and this one has {given}: "
                "pip install -c constraints.txt -e '.[build]'"
            )
        yield from _closure(wanted, seen)


def _closure(name: str, seen: set[str]) -> Iterator[importlib.metadata.Distribution]:
    if canonicalize_name(name) in seen:
        return
    seen.add(canonicalize_name(name))
    distribution = importlib.metadata.distribution(name)
    yield distribution
    for line in distribution.requires or []:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield from _closure(requirement.name, seen)


def _is_whole(place: Path) -> bool:
    # The link to the Python that made it may dangle by now.
    return (place / _WHOLE).is_file() and (place / "bin" / "python").is_file()


def _make(place: Path, python: Path, wanted: _Requirements) -> None:
    started = time.monotonic()
    _log.info("environment %s: making it, once", wanted.name)
    shutil.rmtree(place, ignore_errors=True)
    venv.create(place, symlinks=True)
    for distribution in wanted.lent:
        _link(distribution, place)
    if wanted.tools is not None:
        _install(python, wanted, wanted.tools)
    _install(python, wanted, wanted.file, "--no-build-isolation")
    replace_text(place / _WHOLE, f"{wanted.digest}\n")
    _log.info("environment %s: ready after %.0f s", wanted.name, time.monotonic() - started)


def _link(distribution: importlib.metadata.Distribution, place: Path) -> None:
    """Show a distribution of ours in the environment, by its top-level files and folders."""
    (packages,) = place.glob("lib/python*/site-packages")
    for top in sorted({file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}):
        if not (packages / top).exists():  # folders that several distributions share are linked whole
            (packages / top).symlink_to(Path(str(distribution.locate_file(top))).resolve())


def _install(python: Path, wanted: _Requirements, file: Path, *more: str) -> None:
    """With the pip of this Python, so that the environment holds no pip and no setuptools that no line pins."""
    if importlib.util.find_spec("pip") is None:
        raise PackageError(
            f"the environment {wanted.name} is made by pip, which is missing here: {sys.executable} -m ensurepip"
        )
    pip = [sys.executable, "-m", "pip", "--python", str(python)]
    command = [*pip, "install", "--require-hashes", "--no-deps", *more, "--requirement", str(file)]
    quiet = ["--quiet", "--no-input", "--disable-pip-version-check", "--no-warn-script-location"]
    done = subprocess.run(
        [*command, *quiet],
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise PackageError(
            f"the environment {wanted.name} cannot be made: {_reason(done.stderr + done.stdout, done.returncode)}; "
            f"to see all that pip says: {' '.join(command)}"
        )


def _reason(said: str, status: int) -> str:
    """pip's last word on what went wrong, which is its last line that is marked as an error."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.lower().startswith("error:")]
    return (errors or lines or [f"pip ended with status {status} and said nothing"])[-1].rstrip(".")
