"""Signatures of artifacts: what the library signs holds here, what is signed here holds there, and nothing altered holds."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fixtures.artifacts import kept
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry import dsse, signature
from registry.errors import DamagedError, RefusedError, SignatureError
from registry.keys import KeyFile, PrivateKey, make_key
from registry.manifest import Manifest, read_manifest
from registry.paths import MANIFEST_FILE, SIGNATURE_FILE
from registry.promotions import name_of_trail
from registry.signing import sign
from registry.store import MANIFEST_TAG, Store
from registry.trust import Revocation, Trust

ODD_FILES = {".gitkeep": b"", "a folder/é ü+&=@.json": b"{}", "a-b": b"1", "a/b": b"2"}


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> KeyFile:
    return KeyFile(make_key("lab", tmp_path_factory.mktemp("keys"))[0])


@pytest.fixture(scope="module")
def key(key_file: KeyFile) -> PrivateKey:
    return key_file.read()


@pytest.fixture(scope="module")
def other_file(tmp_path_factory: pytest.TempPathFactory) -> KeyFile:
    return KeyFile(make_key("other", tmp_path_factory.mktemp("keys"))[0])


def trusting(*keys: KeyFile, **options: Any) -> Trust:
    return Trust(tuple(key.read().public for key in keys), **options)


def library(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command that model-signing brings, as a third party runs it."""
    command = [str(Path(sys.executable).with_name("model_signing")), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def resigned(bundle: bytes, key: PrivateKey, change: Callable[[dict[str, Any]], Any]) -> bytes:
    """The bundle with its statement changed, and signed again by the same key: only its content is wrong."""
    value = json.loads(bundle)
    statement = json.loads(base64.b64decode(value["dsseEnvelope"]["payload"]))
    change(statement)
    envelope = json.loads(dsse.sign(signature.PAYLOAD_TYPE, json.dumps(statement).encode(), key))
    envelope["signatures"][0]["keyid"] = ""
    return json.dumps({**value, "dsseEnvelope": envelope}).encode()


@pytest.fixture
def signed(make_artifact: Any, key_file: KeyFile) -> tuple[Manifest, bytes]:
    _, made = make_artifact()
    return made, sign(made, key_file)


def test_a_pulled_artifact_is_verified_by_the_librarys_own_command_and_one_flipped_byte_is_not(
    store: Store, name: str, make_artifact: Any, key_file: KeyFile, tmp_path: Path
) -> None:
    _signing(store, key_file).publish(*make_artifact(ODD_FILES), registered_model=name)
    to = tmp_path / "device"
    store.pull(name, to)
    command = ["verify", "key", to, "--signature", to / SIGNATURE_FILE]
    public = key_file.path.with_suffix(".pem")
    right = library(*command, "--public_key", public)
    assert (right.returncode, "Verification succeeded" in right.stdout) == (0, True), right.stderr
    content = bytearray((to / "model.onnx").read_bytes())
    content[100] ^= 1
    (to / "model.onnx").write_bytes(content)
    assert library(*command, "--public_key", public).returncode != 0


def test_what_the_librarys_command_signs_is_verified_here(make_artifact: Any, key_file: KeyFile) -> None:
    folder, made = make_artifact(ODD_FILES)
    (folder / MANIFEST_FILE).write_bytes(made.canonical())
    done = library("sign", "key", folder, "--signature", folder / SIGNATURE_FILE, "--private_key", key_file.path)
    assert done.returncode == 0, done.stderr
    bundle = signature.read_signature(folder)
    assert bundle is not None
    assert signature.verify(bundle, made, trusting(key_file)).name == "lab"
    made.verify(folder)


def test_a_key_with_a_password_signs(make_artifact: Any, tmp_path: Path) -> None:
    closed = KeyFile(make_key("closed", tmp_path, "a long password")[0], "a long password")
    _, made = make_artifact()
    assert signature.verify(sign(made, closed), made, trusting(closed)).name == "closed"


def test_a_key_that_others_may_read_signs_nothing(make_artifact: Any, tmp_path: Path) -> None:
    shown = KeyFile(make_key("shown", tmp_path)[0])
    shown.path.chmod(0o644)
    with pytest.raises(RefusedError, match="others may read it"):
        sign(make_artifact()[1], shown)


@pytest.mark.parametrize(
    "change",
    [
        {"facts": {"quality": {"perplexity": 1.0}}},
        {"lineage": {}},
        {"model": "other"},
        {"target": None},
        {"kind": "supernet"},
    ],
    ids=str,
)
def test_a_signature_does_not_pass_to_the_same_files_with_other_facts(
    change: dict[str, Any], signed: tuple[Manifest, bytes], key_file: KeyFile
) -> None:
    made, bundle = signed
    with pytest.raises(SignatureError, match=r"the digest of manifest\.json is"):
        signature.verify(bundle, replace(made, **change), trusting(key_file))


def test_a_signature_does_not_pass_to_other_files(
    signed: tuple[Manifest, bytes], make_artifact: Any, key_file: KeyFile
) -> None:
    _, bundle = signed
    for files, message in (({"model.onnx": b"x"}, r"the digest of m"), ({"more": b""}, "is about 4 files")):
        with pytest.raises(SignatureError, match=message):
            signature.verify(bundle, make_artifact(files)[1], trusting(key_file))


def _pop(*path: str) -> Callable[[Any], Any]:
    def change(value: Any) -> None:
        for name in path[:-1]:
            value = value[name]
        value.pop(path[-1])

    return change


def _set(new: Any, *path: Any) -> Callable[[Any], Any]:
    def change(value: Any) -> None:
        for name in path[:-1]:
            value = value[name]
        value[path[-1]] = new

    return change


def _turn(value: Any) -> None:
    value["predicate"]["resources"].reverse()


def _again(value: Any) -> None:
    resources = value["predicate"]["resources"]
    resources[1] = dict(resources[0])


BUNDLE_CHANGES = {
    **{f"no {name}": _pop(name) for name in ("mediaType", "verificationMaterial", "dsseEnvelope")},
    "one more field": _set(1, "extra"),
    "an older type": _set("application/vnd.dev.sigstore.bundle+json;version=0.2", "mediaType"),
    "no type": _set(None, "mediaType"),
    "a certificate": _set({"rawBytes": "AA=="}, "verificationMaterial", "certificate"),
    "a certificate for the key": _set({"certificate": {"rawBytes": "AA=="}, "tlogEntries": []}, "verificationMaterial"),
    "a log entry": _set([{}], "verificationMaterial", "tlogEntries"),
    "no log": _pop("verificationMaterial", "tlogEntries"),
    "no key": _pop("verificationMaterial", "publicKey"),
    "no hint": _pop("verificationMaterial", "publicKey", "hint"),
    "an empty hint": _set("", "verificationMaterial", "publicKey", "hint"),
    "null for a hint": _set(None, "verificationMaterial", "publicKey", "hint"),
    "another hint": _set("0" * 64, "verificationMaterial", "publicKey", "hint"),
    "a raw key": _set("AA==", "verificationMaterial", "publicKey", "rawBytes"),
    "no payload": _pop("dsseEnvelope", "payload"),
    "another payload": _set("e30=", "dsseEnvelope", "payload"),
    "another payload type": _set("application/json", "dsseEnvelope", "payloadType"),
    "no signature": _set([], "dsseEnvelope", "signatures"),
    "a named signature": _set("lab", "dsseEnvelope", "signatures", 0, "keyid"),
    "another signature": _set("AAAA", "dsseEnvelope", "signatures", 0, "sig"),
}


@pytest.mark.parametrize("how", BUNDLE_CHANGES)
def test_a_bundle_is_refused_with(how: str, signed: tuple[Manifest, bytes], key_file: KeyFile) -> None:
    made, bundle = signed
    value = json.loads(bundle)
    BUNDLE_CHANGES[how](value)
    with pytest.raises(SignatureError):
        signature.verify(json.dumps(value).encode(), made, trusting(key_file))


STATEMENT_CHANGES = {
    **{f"no {name}": _pop(name) for name in ("_type", "subject", "predicateType", "predicate")},
    "one more field": _set(1, "extra"),
    "an older statement": _set("https://in-toto.io/Statement/v0.1", "_type"),
    "an older predicate": _set("https://model_signing/Digests/v0.1", "predicateType"),
    "no subject at all": _set([], "subject"),
    "two subjects": lambda value: value["subject"].append(value["subject"][0]),
    "another root digest": _set("0" * 64, "subject", 0, "digest", "sha256"),
    "a root digest of another kind": _set("0" * 64, "subject", 0, "digest", "sha512"),
    "a nameless subject": _set(None, "subject", 0, "name"),
    "an endless name": _set("x" * 256, "subject", 0, "name"),
    "no files": _pop("predicate", "resources"),
    "no way of hashing": _pop("predicate", "serialization"),
    "one more field of the predicate": _set(1, "predicate", "extra"),
    "shards": _set("shards", "predicate", "serialization", "method"),
    "another hash": _set("blake3", "predicate", "serialization", "hash_type"),
    "links allowed": _set(True, "predicate", "serialization", "allow_symlinks"),
    "zero for false": _set(0, "predicate", "serialization", "allow_symlinks"),
    "a shard size": _set(1, "predicate", "serialization", "shard_size"),
    "a file left out": _set(["model.onnx"], "predicate", "serialization", "ignore_paths"),
    "a text for what is left out": _set("model.sig", "predicate", "serialization", "ignore_paths"),
    "a file short": lambda value: value["predicate"]["resources"].pop(),
    "a file too many": lambda value: value["predicate"]["resources"].append(
        {"name": "more", "algorithm": "sha256", "digest": "0" * 64}
    ),
    "a file twice": _again,
    "files in another order": _turn,
    "another digest": _set("0" * 64, "predicate", "resources", 0, "digest"),
    "a digest in capitals": lambda value: value["predicate"]["resources"][0].update(
        digest=value["predicate"]["resources"][0]["digest"].upper()
    ),
    "another algorithm": _set("sha1", "predicate", "resources", 0, "algorithm"),
    "another name": _set("../config.json", "predicate", "resources", 0, "name"),
    "a list for a name": _set([], "predicate", "resources", 0, "name"),
    "one more field of a file": _set(1, "predicate", "resources", 0, "size"),
}


@pytest.mark.parametrize("how", STATEMENT_CHANGES)
def test_a_statement_that_the_trusted_key_signed_is_refused_with(
    how: str, signed: tuple[Manifest, bytes], key_file: KeyFile, key: PrivateKey
) -> None:
    made, bundle = signed
    assert signature.verify(resigned(bundle, key, lambda value: None), made, trusting(key_file)).name == "lab"
    with pytest.raises(SignatureError, match="does not hold"):
        signature.verify(resigned(bundle, key, STATEMENT_CHANGES[how]), made, trusting(key_file))


@settings(max_examples=500, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_a_flipped_byte_of_a_signature_is_refused(
    data: st.DataObject, signed: tuple[Manifest, bytes], key_file: KeyFile
) -> None:
    made, bundle = signed
    flipped = bytearray(bundle)
    flipped[data.draw(st.integers(0, len(bundle) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(SignatureError):
        signature.verify(bytes(flipped), made, trusting(key_file))


def test_a_signature_cut_short_or_longer_is_refused(signed: tuple[Manifest, bytes], key_file: KeyFile) -> None:
    made, bundle = signed
    for content in (b"", bundle[:1], bundle[: len(bundle) // 2], bundle[:-1], bundle + b"x", bundle * 2):
        with pytest.raises(SignatureError):
            signature.verify(content, made, trusting(key_file))


def test_both_keys_hold_while_one_follows_the_other(make_artifact: Any, key_file: KeyFile, other_file: KeyFile) -> None:
    _, made = make_artifact()
    for signing in (key_file, other_file):
        assert signature.verify(sign(made, signing), made, trusting(key_file, other_file)).name == signing.path.stem


def test_what_a_revoked_key_signed_is_refused(signed: tuple[Manifest, bytes], key: PrivateKey) -> None:
    made, bundle = signed
    trust = Trust((key.public,), (Revocation(key.public.fingerprint, "lab", "lost", "2026-11-21"),))
    for wanted in ("when known", "always", "never"):
        with pytest.raises(SignatureError, match=r"key lab .* revoked on 2026-11-21: lost"):
            signature.check(bundle, made, replace(trust, wanted=wanted))


def test_a_signature_is_asked_for_where_a_key_is_known(signed: tuple[Manifest, bytes], key_file: KeyFile) -> None:
    made, bundle = signed
    nobody, somebody = Trust(), trusting(key_file)
    assert signature.check(None, made, nobody) is None
    assert signature.check(bundle, made, nobody) is None
    assert signature.check(bundle, made, somebody) == signature.verify(bundle, made, somebody)
    assert signature.check(None, made, replace(somebody, wanted="never")) is None
    with pytest.raises(
        SignatureError, match=r"tiny\d* x86 is not signed, and keys are known here \(lab\).*--allow-unsig"
    ):
        signature.check(None, made, somebody)


def test_a_required_signature_without_any_key_says_how_to_get_one(signed: tuple[Manifest, bytes]) -> None:
    made, bundle = signed
    for given_bundle in (None, bundle):
        with pytest.raises(SignatureError, match=r"no key is known here.*amoeba keys trust NAME\.pem"):
            signature.check(given_bundle, made, Trust(wanted="always"))


def test_a_signature_in_a_folder_is_a_plain_bounded_file(tmp_path: Path) -> None:
    assert signature.read_signature(tmp_path) is None
    path = tmp_path / SIGNATURE_FILE
    path.symlink_to("/etc/hostname")
    with pytest.raises(SignatureError, match="is a link"):
        signature.read_signature(tmp_path)
    path.unlink()
    path.touch()
    os.truncate(path, signature.MOST_SIGNATURE_BYTES + 1)
    with pytest.raises(SignatureError, match="has more than"):
        signature.read_signature(tmp_path)


def test_the_largest_manifest_has_a_signature_that_is_taken(key_file: KeyFile) -> None:
    from registry.manifest import MOST_MANIFEST_BYTES, FileEntry

    paths = sorted(f"{number:05}/" + "\U0001f980" * 62 + f"/{'é' * 33}" for number in range(10_000))
    made = Manifest("package", "tiny", None, tuple(FileEntry(path, 1, "ab" * 32) for path in paths))
    assert MOST_MANIFEST_BYTES * 0.9 < len(made.canonical()) <= MOST_MANIFEST_BYTES
    assert signature.verify(sign(made, key_file), made, trusting(key_file)).name == "lab"


def _signing(store: Store, key_file: KeyFile) -> Store:
    return Store(store.uri, store.artifact_root, signing_key=key_file)


def _trusting(store: Store, *keys: KeyFile, **options: Any) -> Store:
    return Store(store.uri, store.artifact_root, trust=trusting(*keys, **options))


def test_a_signed_version_is_pulled_with_its_signature_where_the_key_is_known(
    store: Store, name: str, make_artifact: Any, key_file: KeyFile, tmp_path: Path
) -> None:
    _, made = make_artifact()
    version = _signing(store, key_file).publish(*make_artifact(), registered_model=name)
    to = tmp_path / "device"
    assert _trusting(store, key_file).pull(name, to) == made
    made.verify(to)
    assert signature.check(signature.read_signature(to), read_manifest(to), trusting(key_file)) is not None
    assert _trusting(store, key_file).manifest(version) == made


REGISTRY_ATTACKS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "its signature taken away": (lambda folder: (folder / SIGNATURE_FILE).unlink(), "is not signed"),
    "a signature cut short": (lambda folder: os.truncate(folder / SIGNATURE_FILE, 200), "does not hold"),
    "an empty signature": (lambda folder: os.truncate(folder / SIGNATURE_FILE, 0), "wanted 1 to"),
    "an endless signature": (lambda folder: os.truncate(folder / SIGNATURE_FILE, 1 << 30), "wanted 1 to"),
    "a signature that is a folder": (
        lambda folder: ((folder / SIGNATURE_FILE).unlink(), (folder / SIGNATURE_FILE).mkdir()),
        "no longer holds model.sig",
    ),
}


@pytest.mark.parametrize("attack", REGISTRY_ATTACKS)
def test_no_file_is_fetched_of_a_version_with(
    attack: str, store: Store, name: str, make_artifact: Any, key_file: KeyFile, tmp_path: Path
) -> None:
    change, message = REGISTRY_ATTACKS[attack]
    version = _signing(store, key_file).publish(*make_artifact(), registered_model=name)
    change(kept(version))
    for entry in store.manifest(version).files if attack.startswith("its") else ():
        (kept(version) / entry.path).unlink()  # would be missed, were it asked for
    with pytest.raises((SignatureError, DamagedError), match=message):
        _trusting(store, key_file).pull(name, tmp_path / "device")
    assert list(tmp_path.glob("*device*")) == []


def test_a_manifest_that_was_registered_anew_by_somebody_else_is_not_believed(
    store: Store, name: str, make_artifact: Any, key_file: KeyFile, other_file: KeyFile, tmp_path: Path
) -> None:
    version = _signing(store, key_file).publish(*make_artifact(), registered_model=name)
    folder, forged = make_artifact({"model.onnx": b"other weights"})
    (kept(version) / "model.onnx").write_bytes((folder / "model.onnx").read_bytes())
    (kept(version) / MANIFEST_FILE).write_bytes(forged.canonical())
    digest = hashlib.sha256(forged.canonical()).hexdigest()
    store.client().set_model_version_tag(name, version.version, MANIFEST_TAG, digest)
    assert store.pull(name, tmp_path / "believes everybody", version.version) == forged
    with pytest.raises(DamagedError, match="is not what was promoted to production"):
        store.pull(name, tmp_path / "device")
    with pytest.raises(SignatureError, match="does not hold"):
        _trusting(store, key_file).pull(name, tmp_path / "device", version.version)
    (kept(version) / SIGNATURE_FILE).write_bytes(sign(forged, other_file))
    with pytest.raises(SignatureError, match="unknown key"):
        _trusting(store, key_file).pull(name, tmp_path / "device", version.version)
    assert not (tmp_path / "device").exists()


def test_an_unsigned_version_is_pulled_only_where_that_is_said(
    store: Store, name: str, make_artifact: Any, key_file: KeyFile, tmp_path: Path
) -> None:
    store.publish(*make_artifact(), registered_model=name)
    with pytest.raises(SignatureError, match="is not signed"):
        _trusting(store, key_file).pull(name, tmp_path / "device", "1")
    with pytest.raises(SignatureError, match=r"no promotion .* is signed by a trusted key"):
        _trusting(store, key_file).pull(name, tmp_path / "device")
    _trusting(store, key_file, wanted="never").pull(name, tmp_path / "device")
    assert signature.read_signature(tmp_path / "device") is None


def test_a_version_that_was_published_unsigned_gets_its_signature_when_it_is_published_again(
    store: Store, name: str, make_artifact: Any, key_file: KeyFile, other_file: KeyFile, tmp_path: Path
) -> None:
    artifact = make_artifact()
    first = store.publish(*artifact, registered_model=name)
    store.pull(name, tmp_path / "device")
    assert _signing(store, key_file).published(name, artifact[1]) is None
    for signing in (key_file, other_file):
        assert _signing(store, signing).publish(*artifact, registered_model=name) == first
        assert _signing(store, signing).published(name, artifact[1]) == first
        inode = (tmp_path / "device" / "model.onnx").stat().st_ino
        _trusting(store, signing).pull(name, tmp_path / "device")
        assert (tmp_path / "device" / "model.onnx").stat().st_ino == inode
        bundle = signature.read_signature(tmp_path / "device")
        assert signature.check(bundle, artifact[1], trusting(signing)) is not None


def test_a_pull_mends_the_signature_alone_where_only_that_is_damaged(
    store: Store, name: str, make_artifact: Any, key_file: KeyFile, tmp_path: Path
) -> None:
    _signing(store, key_file).publish(*make_artifact(), registered_model=name)
    to = tmp_path / "device"
    store.pull(name, to)
    inode, bundle = to.stat().st_ino, signature.read_signature(to)
    for size in (0, 100, signature.MOST_SIGNATURE_BYTES + 1):
        os.truncate(to / SIGNATURE_FILE, size)
        store.pull(name, to)
        assert (signature.read_signature(to), to.stat().st_ino) == (bundle, inode)
    assert list(tmp_path.glob(".device*")) == []


def test_a_signature_that_holds_is_not_made_again(
    store: Store, name: str, make_artifact: Any, key_file: KeyFile
) -> None:
    artifact = make_artifact()
    version = _signing(store, key_file).publish(*artifact, registered_model=name)
    before = (kept(version) / SIGNATURE_FILE).read_bytes()
    _signing(store, key_file).publish(*artifact, registered_model=name)
    assert (kept(version) / SIGNATURE_FILE).read_bytes() == before


def test_a_key_that_does_not_open_is_told_before_anything_is_uploaded(
    store: Store, name: str, make_artifact: Any, tmp_path: Path
) -> None:
    with pytest.raises(RefusedError, match="cannot be read"):
        _signing(store, KeyFile(tmp_path / "none.key")).publish(*make_artifact(), registered_model=name)
    assert name not in store.models()


@pytest.mark.parametrize("why", ["was revoked: laptop lost", "is not trusted"])
def test_a_key_that_is_not_believed_here_releases_nothing(
    why: str, store: Store, name: str, make_artifact: Any, key_file: KeyFile, other_file: KeyFile
) -> None:
    publisher = _signing(store, key_file)
    for number in range(2):
        publisher.publish(*make_artifact({"more": str(number).encode()}), registered_model=name)
    own = key_file.read().public
    revoked = (Revocation(own.fingerprint, "lab", "laptop lost"),) if "revoked" in why else ()
    late = Store(store.uri, store.artifact_root, Trust((other_file.read().public,), revoked), key_file)
    runs, before = len(store.runs()), store.versions_of(name_of_trail(name))
    for release in (
        lambda: late.publish(*make_artifact({"more": b"2"}), registered_model=name),
        lambda: late.promote(store.resolve(name, "1"), "canary", reason=""),
        lambda: late.roll_back(name, reason=""),
    ):
        with pytest.raises(SignatureError, match=rf"the signing key lab .* {why}.*set AMOEBA_SIGNING_KEY"):
            release()
    assert (len(store.runs()), store.versions_of(name_of_trail(name))) == (runs, before)


def test_a_device_verifies_without_the_library_that_signs() -> None:
    code = (
        "import sys, registry.signature, registry.store;"
        "sys.exit(any(name in sys.modules for name in ('model_signing', 'sigstore', 'mlflow')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
