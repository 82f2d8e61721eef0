"""Signing an artifact, with OpenSSF's own library; needs the extra `sign`, and only where a key is configured."""

from __future__ import annotations

import importlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.errors import RefusedError
from registry.keys import KeyFile
from registry.manifest import Manifest
from registry.paths import SIGNATURE_FILE
from registry.signature import MOST_SIGNATURE_BYTES, SERIALIZATION, signed_files

if TYPE_CHECKING:
    import model_signing.manifest


def sign(manifest: Manifest, key_file: KeyFile) -> bytes:
    """`model.sig` for an artifact, over the digests in its manifest.

    Raises RefusedError for a key that does not open, or that others may read; ModuleNotFoundError without the library.
    """
    signing: Any = importlib.import_module("model_signing.signing")
    key_file.read()
    signer = signing.Config().set_hashing_config(_Listed(manifest))
    # The library says that a password is text, and hands it on to cryptography, which takes bytes only.
    signer.use_elliptic_key_signer(private_key=key_file.path, password=key_file.password_bytes)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / SIGNATURE_FILE
        signer.sign(manifest.model, path)
        content = path.read_bytes()
    if len(content) > MOST_SIGNATURE_BYTES:
        raise RefusedError(f"the signature has {len(content)} bytes; at most {MOST_SIGNATURE_BYTES} are taken")
    return content


@dataclass(frozen=True)
class _Listed:
    """Stands where the library hashes a folder: what is signed is what the manifest says, not what a disk holds now."""

    manifest: Manifest

    def hash(self, model_path: Any) -> model_signing.manifest.Manifest:
        from model_signing import manifest
        from model_signing._hashing.hashing import Digest

        how = manifest.SerializationType.from_args({**SERIALIZATION, "ignore_paths": [SIGNATURE_FILE]})
        listed = [
            how.new_item(path, Digest("sha256", bytes.fromhex(digest)))
            for path, digest in signed_files(self.manifest).items()
        ]
        return manifest.Manifest(str(model_path), listed, how)
