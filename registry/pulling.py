"""A pull: alias, version, manifest, signature, then files one by one, each of exactly its listed size and hashed.

Files arrive in a hidden folder beside the destination, which gets its final name only when all of it is right. What was at
the destination stays until then, and stays when anything fails.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from registry import naming, placing, seen, signature, versions
from registry.artifacts import Artifacts
from registry.copying import write_new
from registry.errors import DamagedError, RefusedError, SignatureError
from registry.fetching import Fetching
from registry.manifest import Manifest, read_manifest
from registry.paths import MANIFEST_FILE, SIGNATURE_FILE
from registry.progress import Progress
from registry.promotions import Promotion
from registry.server import Server, Version
from registry.shelf import Shelf
from registry.trust import Trust


def pull(
    server: Server,
    registered_model: str,
    to: Path,
    alias_or_version: str,
    progress: Progress,
    shelf: Shelf | None,
    promoted: Promotion | None = None,
) -> Manifest:
    """Bring a version to the folder `to`; nothing is fetched when it is there already and whole.

    The record that promoted a version which is asked for by its number is `promoted`, where it was found by one.

    Raises NotFoundError, DamagedError, RefusedError, NoSpaceError or UnreachableError; `to` then is as it was.
    The folder it replaces stays beside it as `.<name>.previous`.
    """
    to = Path(os.path.abspath(to))
    with server.reaching():
        placing.recover(to)
        version, record = versions.released(server, registered_model, alias_or_version)
        if promoted is not None:
            versions.check_promoted(version, promoted)
            record = promoted
        seen.check(to, record, server.trust)
        manifest, bundle = registered(server, version)
        if _holds(to, manifest):
            _refresh_signature(to, bundle)
            seen.note(to, record, server.trust)
            return manifest
        with placing.making(to) as partial:
            around = (placing.previous_of(to), to)
            Fetching(server.artifacts(version.source), manifest, partial, around, shelf, progress).run()
            write_new(partial / MANIFEST_FILE, manifest.canonical())
            if bundle is not None:
                write_new(partial / SIGNATURE_FILE, bundle)
            seen.note(to, record, server.trust)
            placing.place(partial, to, lambda: _holds(to, manifest))
    return manifest


def _holds(folder: Path, manifest: Manifest) -> bool:
    if folder.is_symlink() or not folder.is_dir():
        return False
    try:
        if read_manifest(folder).digest != manifest.digest:
            return False
        manifest.verify(folder)
    except (DamagedError, RefusedError):
        return False
    return True


def registered(server: Server, version: Version, trust: Trust | None = None) -> tuple[Manifest, bytes | None]:
    """The manifest of a version and its signature: bounded, then hashed, then read, then checked for who signed it.

    It must be of the model it stands under. Whom to believe is the server's to say, unless `trust` says otherwise.

    Raises DamagedError, RefusedError, or SignatureError.
    """
    if not version.manifest_digest:
        raise DamagedError(
            f"{version.registered_model} version {version.version} was not published by amoeba: it names no manifest; "
            "pull another version"
        )
    with server.reaching():
        artifacts = _opened(server, version)
        content, bundle = artifacts.manifest(), artifacts.signature()
    if hashlib.sha256(content).hexdigest() != version.manifest_digest:
        raise DamagedError(
            f"the manifest of {version.registered_model} version {version.version} is not the one registered; "
            "pull another version, or publish again"
        )
    manifest = Manifest.parse(content)
    signature.check(bundle, manifest, trust or server.trust)
    naming.check_same(version.registered_model, manifest.model, manifest.target)
    return manifest, bundle


def _opened(server: Server, version: Version) -> Artifacts:
    """Raises DamagedError for a source that nothing here opens."""
    from mlflow.exceptions import MlflowException

    try:
        return server.artifacts(version.source)
    except (ImportError, MlflowException) as error:
        if isinstance(error, MlflowException) and isinstance(error.__cause__, OSError):  # the registry did not answer
            raise
        raise DamagedError(
            f"nothing here opens where {version.registered_model} version {version.version} is kept: {str(error)[:200]}"
        ) from error


def _refresh_signature(to: Path, bundle: bytes | None) -> None:
    """Replace the signature of an artifact that is there already: it may have been signed since, or by another key."""
    if bundle is None:
        return
    with contextlib.suppress(SignatureError):  # one that cannot be read is replaced like any other
        if signature.read_signature(to) == bundle:
            return
    placing.write(to / SIGNATURE_FILE, lambda: bundle, to)
