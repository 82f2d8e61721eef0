"""Small documents beside a version, whose own bytes never change: what a device measured, say."""

from __future__ import annotations

import hashlib
import re
import tempfile
from pathlib import Path

from registry import naming
from registry.errors import DamagedError, RefusedError
from registry.manifest import MOST_MANIFEST_BYTES, FileEntry
from registry.server import Server, Version


def attach(server: Server, version: Version, kind: str, content: bytes) -> None:
    """Keep a small document beside a version, whose own bytes never change; the latest of a kind is the one found.

    Raises RefusedError for one that is too large, or UnreachableError; the one before then is still the one found.
    """
    naming.check_alias(kind)
    if not 0 < len(content) <= MOST_MANIFEST_BYTES:
        raise RefusedError(f"a {kind} has {len(content)} bytes; 1 to {MOST_MANIFEST_BYTES} are taken")
    digest = hashlib.sha256(content).hexdigest()
    with server.reaching(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{digest}.json"
        path.write_bytes(content)
        server.mlflow.log_artifact(version.run_id, str(path), _place(version))
        tag = f"{digest} {len(content)}"
        server.mlflow.set_model_version_tag(version.registered_model, version.version, tag_of(kind), tag)


def attached(server: Server, version: Version, kind: str) -> bytes | None:
    """The latest document of a kind, of the size and digest that were noted; raises DamagedError for any other."""
    digest, _, size = version.tags.get(tag_of(kind), "").partition(" ")
    if not re.fullmatch("[0-9a-f]{64}", digest) or not re.fullmatch("[0-9]{1,8}", size):
        return None
    entry = FileEntry(f"{digest}.json", int(size), digest)
    if entry.size > MOST_MANIFEST_BYTES:
        raise DamagedError(f"a {kind} of {entry.size} bytes is noted; at most {MOST_MANIFEST_BYTES} are taken")
    with server.reaching(), tempfile.TemporaryDirectory() as folder:
        root = server.mlflow.get_run(version.run_id).info.artifact_uri
        server.artifacts(f"{root}/{_place(version)}").file(entry, Path(folder))
        return (Path(folder) / entry.path).read_bytes()


def tag_of(kind: str) -> str:
    """Of a version: where the digest and size of its latest document of a kind are noted."""
    return f"amoeba.{kind}"


def _place(version: Version) -> str:
    return f"attached-{version.manifest_digest[:16]}"
