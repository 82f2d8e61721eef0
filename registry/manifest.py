"""The manifest: every file of an artifact with its size and SHA-256, and what it was made from.

Rules, checked whenever a manifest is made, read or compared with a folder:

1. Every path is one that `registry.paths` takes, and no two are the same place anywhere.
2. Counts and sizes, one by one and together, are bounded before anything is read into memory.
3. A folder holds exactly the listed files, its manifest and perhaps a signature: plain files, no links, nothing else.
4. The canonical form is unique: sorted keys, sorted files, no spaces, UTF-8, one newline at the end. Whatever cannot
   be written so (NaN, half a surrogate pair, deep nesting) is in no manifest.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from registry.errors import DamagedError, RefusedError
from registry.paths import MANIFEST_FILE as MANIFEST_FILE
from registry.paths import UNLISTED, check_apart, check_path

FORMAT_VERSION = 1
MOST_MANIFEST_BYTES = 4 << 20
_MOST_FILES = 10_000
_MOST_BYTES = 1 << 40
_MOST_NAME_CHARACTERS = 200
_MOST_NESTING = 32
_DIGEST = re.compile(r"[0-9a-f]{64}")

Kind = Literal["package", "supernet"]


@dataclass(frozen=True)
class FileEntry:
    """One file: where it goes, how long it is, and what it must hash to."""

    path: str
    size: int
    sha256: str

    def __post_init__(self) -> None:
        check_path(self.path)
        if not _whole(self.size) or not 0 <= self.size < _MOST_BYTES:
            raise RefusedError(f"{self.path} is said to have {self.size!r} bytes; 0 to {_MOST_BYTES - 1} are taken")
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
            wanted = f"{self.sha256[:12]}…; pull it again"
            raise DamagedError(f"{self.path} has SHA-256 {given[:12]}…, the manifest says {wanted}")


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
        if not _whole(self.format_version) or self.format_version != FORMAT_VERSION:
            version = self.format_version
            raise RefusedError(f"the manifest is of format {version!r}; this version reads {FORMAT_VERSION}")
        if self.kind not in ("package", "supernet"):
            raise RefusedError(f"a manifest is of a package or a supernet, not of {self.kind!r}")
        if not _is_name(self.model) or not (self.target is None or _is_name(self.target)):
            raise RefusedError(
                f"a manifest names its model, and its target or null, in 1 to {_MOST_NAME_CHARACTERS} characters; "
                f"got {str(self.model)[:80]!r} and {str(self.target)[:80]!r}"
            )
        self._check_files()
        try:
            # Through JSON and back: what is compared later is what will be read, and a caller's dict is not shared.
            for name in ("facts", "lineage"):
                object.__setattr__(self, name, _plain(name, getattr(self, name)))
            size = len(self.canonical())
        except (ValueError, TypeError, RecursionError) as error:
            raise RefusedError(f"a manifest's facts and lineage are plain JSON objects: {error}") from error
        if size > MOST_MANIFEST_BYTES:
            raise RefusedError(f"the manifest has {size} bytes; at most {MOST_MANIFEST_BYTES} are taken")

    def _check_files(self) -> None:
        if not isinstance(self.files, tuple) or not all(isinstance(entry, FileEntry) for entry in self.files):
            raise RefusedError("a manifest's files are a tuple of FileEntry")
        if not 1 <= len(self.files) <= _MOST_FILES:
            raise RefusedError(f"a manifest lists 1 to {_MOST_FILES} files, got {len(self.files)}")
        if self.size >= _MOST_BYTES:
            raise RefusedError(
                f"the manifest's files have {self.size} bytes together; at most {_MOST_BYTES - 1} are taken"
            )
        paths = [entry.path for entry in self.files]
        if paths != sorted(paths):
            raise RefusedError("a manifest's files are sorted by path")
        check_apart(paths)

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
        """Describe a folder as it is.

        Raises RefusedError for what a manifest cannot list, DamagedError for links and for what cannot be read.
        """
        return cls(kind, model, target, files_of(folder), facts, lineage)

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
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return f"{text}\n".encode()

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical form: what a version is known by."""
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
            raise DamagedError(f"{folder} holds {min(unlisted)}, which the manifest does not list; move it away")
        for entry in self.files:
            entry.verify(folder)


def read_manifest(folder: Path) -> Manifest:
    """The manifest in `folder`; raises DamagedError when there is none, RefusedError when it is not of this format."""
    path = folder / MANIFEST_FILE
    if not path.is_file() or path.is_symlink():
        raise DamagedError(f"{folder} has no {MANIFEST_FILE}: it is no pulled artifact, or not whole")
    with path.open("rb") as file:
        return Manifest.parse(file.read(MOST_MANIFEST_BYTES + 1))


def files_of(folder: Path) -> tuple[FileEntry, ...]:
    """Every file of a folder as it is, sorted; raises as `Manifest.of` does."""
    return tuple(
        FileEntry(name, (folder / name).stat().st_size, digest_of(folder / name)) for name in sorted(_files(folder))
    )


def digest_of(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(folder: Path) -> set[str]:
    """Every file below `folder` by its path; raises DamagedError for links, special files and what cannot be read."""

    def stop(error: OSError) -> None:
        raise DamagedError(f"{folder} cannot be read whole: {error}") from error

    found: set[str] = set()
    for root, folders, names in os.walk(folder, onerror=stop):
        for name in (*folders, *names):
            path = Path(root) / name
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                raise DamagedError(f"{path} is a link or a special file; an artifact holds plain files only")
        found.update((Path(root) / name).relative_to(folder).as_posix() for name in names)
        if len(found) > _MOST_FILES + len(UNLISTED):
            raise RefusedError(f"{folder} holds more than {_MOST_FILES} files, the most that a manifest lists")
    return found - set(UNLISTED)


def _plain(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} is a {type(value).__name__}")
    plain: dict[str, Any] = json.loads(json.dumps(dict(value), allow_nan=False))
    if _nesting(plain) > _MOST_NESTING:
        raise ValueError(f"{name} nests more than {_MOST_NESTING} deep")
    return plain


def _nesting(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_nesting, inner), default=0)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= _MOST_NAME_CHARACTERS


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
