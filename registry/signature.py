"""`model.sig`: an OpenSSF Model Signing v1 signature over every file of an artifact, its manifest included.

The file is a Sigstore bundle with a DSSE envelope over an in-toto statement. Anyone may verify it with the library's own
command: `model_signing verify key DIR --signature DIR/model.sig --public_key NAME.pem`. A device does it here, before it
fetches a single file, and is stricter:

1. The bundle is of version 0.3 with a public key's fingerprint and nothing else: no certificate, no log, no other field.
2. The statement is about exactly the files that the manifest lists, with the same digests, and about the manifest itself.
   So a signature does not pass from one manifest to another, nor to the same files with other facts.
3. What the statement says of itself is believed nowhere: its root digest is computed again.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from registry import dsse
from registry.errors import SignatureError
from registry.manifest import Manifest
from registry.paths import MANIFEST_FILE, SIGNATURE_FILE
from registry.trust import Signer, Trust

MOST_SIGNATURE_BYTES = dsse.MOST_ENVELOPE_BYTES
BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
SERIALIZATION = {"method": "files", "hash_type": "sha256", "allow_symlinks": False}
_IGNORABLE = {SIGNATURE_FILE, ".git", ".gitattributes", ".github", ".gitignore"}
_MOST_NAME_CHARACTERS = 255


def check(bundle: bytes | None, manifest: Manifest, trust: Trust) -> Signer | None:
    """Who signed the manifest; None where nobody is known who could have, or where unsigned is allowed and it is.

    Raises SignatureError where a signature is wanted and there is none, and for one that does not hold.
    """
    if not trust.knows_a_key:
        if not trust.required:
            return None
        raise SignatureError(
            "a signature is required, and no key is known here to check one with; get the publisher's NAME.pem from "
            "somebody you believe, and `amoeba keys trust NAME.pem`"
        )
    if bundle is None:
        if not trust.required:
            return None
        raise SignatureError(
            f"{manifest.model} {manifest.target or ''}".rstrip() + " is not signed, and keys are known here "
            f"({', '.join(key.name for key in trust.keys) or 'all revoked'}); ask the publisher for a signed version, "
            "or take it as it is with --allow-unsigned"
        )
    return verify(bundle, manifest, trust)


def verify(bundle: bytes, manifest: Manifest, trust: Trust) -> Signer:
    """Who signed this very manifest; raises SignatureError for an unknown or revoked key and for what was altered."""
    value = dsse.read_json(bundle)
    dsse.check_fields("a bundle", value, "mediaType", "verificationMaterial", "dsseEnvelope")
    _check_is("mediaType", value["mediaType"], BUNDLE_TYPE)
    material = value["verificationMaterial"]
    dsse.check_fields("a bundle's material", material, "publicKey", "tlogEntries")
    _check_is("tlogEntries", material["tlogEntries"], [])
    dsse.check_fields("a bundle's key", material["publicKey"], "hint")
    payload, signer = dsse.open_envelope(
        value["dsseEnvelope"], PAYLOAD_TYPE, fingerprint=material["publicKey"]["hint"], key_id="", trust=trust
    )
    _check_statement(dsse.read_json(payload), manifest)
    return signer


def signed_files(manifest: Manifest) -> dict[str, str]:
    """The digest of every file that a signature is about: those of the manifest, and the manifest."""
    return {**{entry.path: entry.sha256 for entry in manifest.files}, MANIFEST_FILE: manifest.digest}


def read_signature(folder: Path) -> bytes | None:
    """The signature in a pulled folder, None where there is none; raises SignatureError for a link or a giant."""
    path = folder / SIGNATURE_FILE
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise SignatureError(f"{path} is a link or no plain file; pull it again")
    if not path.exists():
        return None
    with path.open("rb") as file:
        content = file.read(MOST_SIGNATURE_BYTES + 1)
    if len(content) > MOST_SIGNATURE_BYTES:
        raise SignatureError(f"{path} has more than {MOST_SIGNATURE_BYTES} bytes; pull it again")
    return content


def _check_statement(statement: Any, manifest: Manifest) -> None:
    dsse.check_fields("a statement", statement, "_type", "subject", "predicateType", "predicate")
    _check_is("_type", statement["_type"], STATEMENT_TYPE)
    _check_is("predicateType", statement["predicateType"], PREDICATE_TYPE)
    predicate = statement["predicate"]
    dsse.check_fields("a predicate", predicate, "serialization", "resources")
    _check_serialization(predicate["serialization"])
    root = _check_resources(predicate["resources"], signed_files(manifest))
    subjects = statement["subject"]
    if not isinstance(subjects, list) or len(subjects) != 1:
        raise dsse.altered("a statement is about one subject")
    dsse.check_fields("a subject", subjects[0], "name", "digest")
    if not isinstance(subjects[0]["name"], str) or len(subjects[0]["name"]) > _MOST_NAME_CHARACTERS:
        raise dsse.altered(f"a subject's name has at most {_MOST_NAME_CHARACTERS} characters")
    _check_is("the subject's digest", subjects[0]["digest"], {"sha256": root})


def _check_serialization(given: Any) -> None:
    if not isinstance(given, dict):
        raise dsse.altered("a statement says how its files were hashed")
    ignored = given.get("ignore_paths", [])
    if not isinstance(ignored, list) or not all(isinstance(path, str) and path in _IGNORABLE for path in ignored):
        raise dsse.altered(f"it leaves out {str(ignored)[:80]}; only {', '.join(sorted(_IGNORABLE))} may be")
    _check_is("serialization", {name: given[name] for name in given if name != "ignore_paths"}, SERIALIZATION)


def _check_resources(resources: Any, wanted: dict[str, str]) -> str:
    """Raise SignatureError unless these are the wanted files, each once; the digest over their digests otherwise."""
    if not isinstance(resources, list) or len(resources) != len(wanted):
        got = len(resources) if isinstance(resources, list) else "none"
        raise dsse.altered(f"it is about {got} files, the manifest and its files are {len(wanted)}")
    left, over_all = dict(wanted), hashlib.sha256()
    for resource in resources:
        dsse.check_fields("a file", resource, "name", "algorithm", "digest")
        _check_is("algorithm", resource["algorithm"], "sha256")
        name = resource["name"]
        digest = left.pop(name, None) if isinstance(name, str) else None
        if digest is None:
            raise dsse.altered(f"it is about {str(name)[:80]!r}, which the manifest does not list, or twice")
        _check_is(f"the digest of {name}", resource["digest"], digest)
        over_all.update(bytes.fromhex(digest))
    return over_all.hexdigest()


def _check_is(what: str, given: Any, wanted: Any) -> None:
    # As JSON, where 1, 1.0 and true differ.
    if json.dumps(given, sort_keys=True) != json.dumps(wanted, sort_keys=True):
        raise dsse.altered(f"{what} is {str(given)[:80]!r}, wanted {str(wanted)[:80]!r}")
