"""Publication: files, then the manifest, read back; then a version; a promotion last.

1. A version is made only after every file, the signature and then the manifest were uploaded, read back and found right.
   A publisher killed at any point leaves the alias on the old, complete version.
2. No upload touches the bytes of another, even within one run: each manifest has a folder of its own, and so has each place
   that it is published from. Two clones may share a run; whoever was killed finds the folder again that he began.
3. The same manifest is published once: publishing it again finds the version that holds it, reads it back, and moves
   the alias to it. Where that version is damaged, a new one is made; where it lacks a signature by the key that signs
   now, it gets one: a signature lies beside the manifest and changes no digest.
4. Only what was made here is signed: the manifest given, of a folder that was just hashed, never one that a server holds.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import platform
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from registry import naming, promoting, signature, versions
from registry.errors import OF_ONE_VERSION, DamagedError, RegistryError, SignatureError
from registry.manifest import Manifest
from registry.paths import MANIFEST_FILE, SIGNATURE_FILE
from registry.progress import Progress
from registry.pulling import registered
from registry.server import CONTENT_TAG, MANIFEST_TAG, UPLOAD_TAG, Server, Version
from registry.trust import NOBODY, Trust

_log = logging.getLogger(__name__)


def publish(
    server: Server,
    folder: Path,
    manifest: Manifest,
    *,
    registered_model: str,
    alias: str,
    tags: Mapping[str, str],
    run_id: str | None,
    reason: str,
    progress: Progress,
) -> Version:
    """Upload, read back, register, and promote to `alias`; what was `production` before becomes `previous`.

    A version that holds this very manifest already is read back and used again. Without `run_id`, a run is made
    and ended here. Raises DamagedError when the folder, or what the server holds of it, is not what the manifest
    says, and RefusedError, SignatureError, NoSpaceError or UnreachableError; the alias then is where it was.
    """
    naming.check_registered(registered_model)
    naming.check_alias(alias)
    server.check_signing()
    own = server.own_trust()
    naming.check_same(registered_model, manifest.model, manifest.target)
    manifest.verify(folder)
    with server.reaching():
        version = _known(server, registered_model, manifest, own)
        if version is None:
            with _run(server, run_id, registered_model) as run:
                place = place_of(manifest, folder)
                source = f"{server.mlflow.get_run(run).info.artifact_uri}/{place}"
                server.mlflow.set_tag(run, UPLOAD_TAG, str(round(time.time() * 1000)))
                _clear(server, registered_model, source)
                _upload(server, folder, manifest, run, place, progress)
                _sign(server, manifest, own, run, source)
                _upload_content(server, run, place, MANIFEST_FILE, manifest.canonical())
                _read_back(server, source, manifest)
                version = _register(server, registered_model, manifest, run, source, tags)
    promoting.promote(server, version, alias, reason=reason, by=promoting.author())
    return versions.resolve(server, registered_model, version.version)


def _known(server: Server, registered_model: str, manifest: Manifest, own: Trust | None) -> Version | None:
    """The version that holds this manifest and is still whole."""
    found = versions.find(server, registered_model, MANIFEST_TAG, manifest.digest)
    if found is None:
        return None
    if not _is_whole(server, found, manifest):
        return None
    _sign(server, manifest, own, found.run_id, found.source)
    return found


@contextlib.contextmanager
def _run(server: Server, run_id: str | None, registered_model: str) -> Iterator[str]:
    """The run given, or one of our own that ends here."""
    if run_id is not None:
        yield run_id
        return
    run: str = server.mlflow.create_run(server.experiment_id(), run_name=f"publish {registered_model}").info.run_id
    try:
        yield run
    except BaseException:
        with contextlib.suppress(Exception):
            server.mlflow.set_terminated(run, "FAILED")
        raise
    server.mlflow.set_terminated(run, "FINISHED")


def place_of(manifest: Manifest, folder: Path) -> str:
    """What an upload is called within its run: the same again for the same manifest of the same folder on this machine."""
    told = f"{manifest.digest}\n{platform.node()}\n{folder.resolve()}"
    return f"artifact-{hashlib.sha256(told.encode(errors='surrogateescape')).hexdigest()[:16]}"


def _clear(server: Server, registered_model: str, source: str) -> None:
    """Remove what a publisher that was killed left of this very upload, unless it became a version."""
    root, _, place = source.rpartition("/")
    if any(version.source == source for version in server.versions_of(registered_model)):
        return
    with contextlib.suppress(RegistryError), server.reaching():  # where nothing may be removed it is written over
        if place in server.artifacts(root).folders():
            server.artifacts(root).remove(place)


def _upload(server: Server, folder: Path, manifest: Manifest, run_id: str, place: str, progress: Progress) -> None:
    done = 0
    for entry in manifest.files:
        parent = f"{place}/{os.path.dirname(entry.path)}".rstrip("/")
        server.mlflow.log_artifact(run_id, str(folder / entry.path), parent)
        done += entry.size
        progress(done, manifest.size)


def _upload_content(server: Server, run_id: str, place: str, name: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as beside:
        path = Path(beside) / name
        path.write_bytes(content)
        server.mlflow.log_artifact(run_id, str(path), place)


def is_sound(server: Server, version: Version) -> bool:
    """Whether a version is still whole, and signed by the configured key, where there is one."""
    try:
        manifest, _ = registered(server, version, server.own_trust() or NOBODY)
    except OF_ONE_VERSION:
        return False
    with server.reaching():
        return _is_whole(server, version, manifest)


def _is_whole(server: Server, version: Version, manifest: Manifest) -> bool:
    try:
        _read_back(server, version.source, manifest)
    except DamagedError as error:
        _log.warning(
            "%s version %s is damaged, publishing it anew: %s", version.registered_model, version.version, error
        )
        return False
    return True


def _sign(server: Server, manifest: Manifest, own: Trust | None, run_id: str, source: str) -> None:
    """Put a signature by the configured key beside what is to be released, and read it back; one that is there stays."""
    if server.signing_key is None or own is None:
        return
    with contextlib.suppress(SignatureError):
        signature.check(_held_signature(server, source), manifest, own)
        return
    from registry.signing import sign

    _upload_content(server, run_id, source.rpartition("/")[2], SIGNATURE_FILE, sign(manifest, server.signing_key))
    signature.check(_held_signature(server, source), manifest, own)


def _held_signature(server: Server, source: str) -> bytes | None:
    return server.artifacts(source).signature()


def _read_back(server: Server, source: str, manifest: Manifest) -> None:
    """Fetch every file that the server now holds and compare it, one at a time."""
    artifacts = server.artifacts(source)
    for entry in manifest.files:
        with tempfile.TemporaryDirectory() as folder:
            artifacts.file(entry, Path(folder))
    if artifacts.manifest() != manifest.canonical():
        raise DamagedError("the server holds another manifest than the one uploaded; publish again")


def _register(
    server: Server, registered_model: str, manifest: Manifest, run_id: str, source: str, tags: Mapping[str, str]
) -> Version:
    server.ensure_model(registered_model)
    own = {
        MANIFEST_TAG: manifest.digest,
        CONTENT_TAG: manifest.content_digest,
        "amoeba.kind": manifest.kind,
        "amoeba.model": manifest.model,
        **({"amoeba.target": manifest.target} if manifest.target else {}),
    }
    number = server.create_version(registered_model, source, run_id, {**tags, **own})
    return Version(registered_model, str(number), (), {**tags, **own}, run_id, source)
