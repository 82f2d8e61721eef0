"""The manifest: every file of an artifact with its size and SHA-256, and what it was made from.

Rules, checked whenever a manifest is made, read or compared with a folder:

1. A path is relative, in POSIX form and in NFC, with no `..`, no empty or dotted-only part, no backslash, colon or
   control character; no two paths are the same to a file system that folds case.
2. Nothing that unpickles when opened is listed: the suffix alone refuses it.
3. Counts and sizes are bounded before anything is read into memory.
4. A folder holds exactly the listed files: plain files, no links, nothing else.
5. The canonical form is unique: sorted keys, sorted files, no spaces, UTF-8, one newline at the end.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from registry.errors import DamagedError, RefusedError

MANIFEST_FILE = "manifest.json"
FORMAT_VERSION = 1
MOST_MANIFEST_BYTES = 4 << 20
_MOST_FILES = 10_000
_MOST_FILE_BYTES = 1 << 40
_MOST_PATH_CHARACTERS = 500
_PICKLED = (".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".bin", ".joblib")
_DIGEST = re.compile(r"[0-9a-f]{64}")

Kind = Literal["package", "supernet"]


@dataclass(frozen=True)
class FileEntry:
    """One file: where it goes, how long it is, and what it must hash to."""

    path: str
    size: int
    sha256: str

    def __post_init__(self) -> None:
        _check_path(self.path)
        if not _whole(self.size) or not 0 <= self.size <= _MOST_FILE_BYTES:
            raise RefusedError(f"{self.path} is said to have {self.size!r} bytes; 0 to {_MOST_FILE_BYTES} are taken")
        if not isinstance(self.sha256, str) or not _DIGEST.fullmatch(self.sha256):
            raise RefusedError(f"{self.path} has no SHA-256 of 64 lower-case hexadecimal digits")

    def verify(self, folder: Path) -> None:
        """Raise DamagedError unless the file is a plain one of this size and digest."""
        path = folder / self.path
        try:
            facts = path.lstat()
        except OSError as error:
            raise DamagedError(f"{self.path} is missing from {folder}; pull it again") from error
        if not stat.S_ISREG(facts.st_mode) or facts.st_nlink > 1:
            raise DamagedError(f"{self.path} in {folder} is a link or no plain file; pull it again")
        if facts.st_size != self.size:
            raise DamagedError(f"{self.path} has {facts.st_size} bytes, the manifest says {self.size}; pull it again")
        given = digest_of(path)
        if given != self.sha256:
            raise DamagedError(f"{self.path} has SHA-256 {given[:12]}…, the manifest says {self.sha256[:12]}…; pull it again")


@dataclass(frozen=True)
class Manifest:
    """`facts` say what the artifact is and measured; `lineage` what it was made from. Both hold JSON values only."""

    kind: Kind
    model: str
    target: str | None
    files: tuple[FileEntry, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    lineage: Mapping[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if self.format_version != FORMAT_VERSION:
            raise RefusedError(f"the manifest is of format {self.format_version!r}; this version reads {FORMAT_VERSION}")
        if self.kind not in ("package", "supernet"):
            raise RefusedError(f"a manifest is of a package or a supernet, not of {self.kind!r}")
        if not isinstance(self.model, str) or not (self.target is None or isinstance(self.target, str)):
            raise RefusedError("a manifest names its model, and its target or null, as text")
        if not isinstance(self.facts, Mapping) or not isinstance(self.lineage, Mapping):
            raise RefusedError("a manifest's facts and lineage are objects")
        if not 1 <= len(self.files) <= _MOST_FILES:
            raise RefusedError(f"a manifest lists 1 to {_MOST_FILES} files, got {len(self.files)}")
        paths = [entry.path for entry in self.files]
        if paths != sorted(paths):
            raise RefusedError("a manifest's files are sorted by path")
        folded = {path.casefold() for path in paths}
        if len(folded) != len(paths):
            raise RefusedError("two paths of the manifest are the same to a file system that folds case")
        if MANIFEST_FILE in folded:
            raise RefusedError(f"a manifest does not list {MANIFEST_FILE}, which is its own name")

    @classmethod
    def of(
        cls,
        folder: Path,
        *,
        kind: Kind,
        model: str,
        target: str | None,
        facts: Mapping[str, Any],
        lineage: Mapping[str, Any],
    ) -> Manifest:
        """Describe a folder as it is; raises RefusedError for what a manifest cannot list."""
        entries = tuple(
            FileEntry(name, (folder / name).stat().st_size, digest_of(folder / name)) for name in sorted(_files(folder))
        )
        # Through JSON and back, so that what is compared later is what will be read: tuples become lists.
        return cls(kind, model, target, entries, *(json.loads(json.dumps(part)) for part in (facts, lineage)))

    @classmethod
    def parse(cls, content: bytes) -> Manifest:
        """Read what `canonical` wrote; raises RefusedError for anything else."""
        if len(content) > MOST_MANIFEST_BYTES:
            raise RefusedError(f"the manifest has {len(content)} bytes; at most {MOST_MANIFEST_BYTES} are taken")
        try:
            value = json.loads(content)
            entries = tuple(FileEntry(**entry) for entry in value.pop("files"))
            manifest = cls(files=entries, **value)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise RefusedError(f"the manifest is not of this format: {error}") from error
        if manifest.canonical() != content:
            raise RefusedError("the manifest is not in canonical form")
        return manifest

    def canonical(self) -> bytes:
        """The one way these facts are written."""
        value = {**vars(self), "files": [vars(entry) for entry in self.files]}
        return (json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False) + "\n").encode()

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.canonical()).hexdigest()

    @property
    def content_digest(self) -> str:
        """Over the files alone: the same bytes measured again keep it."""
        listed = "".join(f"{entry.sha256} {entry.path}\n" for entry in self.files)
        return hashlib.sha256(f"{self.kind} {self.model} {self.target}\n{listed}".encode()).hexdigest()

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(entry.size for entry in self.files)

    def verify(self, folder: Path) -> None:
        """Raise DamagedError unless `folder` holds exactly the listed files, beside the manifest itself."""
        unlisted = _files(folder) - {entry.path for entry in self.files}
        if unlisted:
            raise DamagedError(f"{folder} holds {min(unlisted)}, which the manifest does not list; pull it again")
        for entry in self.files:
            entry.verify(folder)


def read_manifest(folder: Path) -> Manifest:
    """The manifest in `folder`; raises DamagedError when there is none."""
    path = folder / MANIFEST_FILE
    if not path.is_file() or path.is_symlink():
        raise DamagedError(f"{folder} has no {MANIFEST_FILE}: it is no pulled artifact, or not whole")
    with path.open("rb") as file:
        return Manifest.parse(file.read(MOST_MANIFEST_BYTES + 1))


def digest_of(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(folder: Path) -> set[str]:
    """Every file below `folder` by its path; raises DamagedError for links and special files."""
    found = set()
    for root, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(root) / name
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                raise DamagedError(f"{path} is a link or a special file; an artifact holds plain files only")
        found.update((Path(root) / name).relative_to(folder).as_posix() for name in names)
    return found - {MANIFEST_FILE}


def _check_path(path: Any) -> None:
    if not isinstance(path, str) or not 1 <= len(path) <= _MOST_PATH_CHARACTERS:
        raise RefusedError(f"a path has 1 to {_MOST_PATH_CHARACTERS} characters, got {str(path)[:80]!r}")
    parts = path.split("/")
    if any(part.strip(". ") == "" or part != part.strip(" ") or part.endswith(".") for part in parts):
        raise RefusedError(f"path {path!r} has an empty, dotted or space-ended part")
    if any(character in '\\:<>"|?*' or unicodedata.category(character)[0] == "C" for character in path):
        raise RefusedError(f"path {path!r} has a character that not every file system takes")
    if unicodedata.normalize("NFC", path) != path:
        raise RefusedError(f"path {path!r} is not in Unicode's NFC form")
    if PurePosixPath(path).suffix.lower() in _PICKLED:
        raise RefusedError(f"{path} may be a pickle, which runs code when it is opened; nothing with its suffix is taken")


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
