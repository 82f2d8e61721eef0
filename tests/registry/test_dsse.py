"""Envelopes of small signed statements, and every way to alter one."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry import dsse
from registry.errors import SignatureError
from registry.keys import KeyFile, PrivateKey, make_key
from registry.trust import Revocation, Trust

TYPE = "application/vnd.example+json"
PAYLOAD = b'{"version": 3}'
Change = Callable[[dict[str, Any]], Any]


def make(folder: Path, name: str) -> PrivateKey:
    return KeyFile(make_key(name, folder)[0]).read()


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> PrivateKey:
    return make(tmp_path_factory.mktemp("keys"), "lab")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> PrivateKey:
    return make(tmp_path_factory.mktemp("keys"), "other")


@pytest.fixture(scope="module")
def envelope(key: PrivateKey) -> bytes:
    return dsse.sign(TYPE, PAYLOAD, key)


def trusting(*keys: PrivateKey) -> Trust:
    return Trust(tuple(key.public for key in keys))


def test_the_encoding_is_that_of_the_specification() -> None:
    assert dsse.pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


@given(st.text(max_size=6), st.binary(max_size=12), st.text(max_size=6), st.binary(max_size=12))
def test_no_two_pairs_of_type_and_payload_are_encoded_alike(a: str, b: bytes, c: str, d: bytes) -> None:
    assert (dsse.pae(a, b) == dsse.pae(c, d)) == ((a, b) == (c, d))


def test_what_was_signed_comes_back_with_who_signed_it(key: PrivateKey, other: PrivateKey, envelope: bytes) -> None:
    payload, signer = dsse.verify(envelope, TYPE, trusting(other, key))
    assert payload == PAYLOAD
    assert (signer.name, signer.fingerprint) == ("lab", key.public.fingerprint)


def test_a_payload_does_not_pass_for_another_type(key: PrivateKey, envelope: bytes) -> None:
    with pytest.raises(SignatureError, match=r"is of type 'application/vnd\.example\+json', wanted 'text/plain'"):
        dsse.verify(envelope, "text/plain", trusting(key))
    relabelled = {**json.loads(envelope), "payloadType": "text/plain"}
    with pytest.raises(SignatureError, match="not one of lab over these bytes"):
        dsse.verify(json.dumps(relabelled).encode(), "text/plain", trusting(key))


def test_a_key_that_is_unknown_or_revoked_is_refused(key: PrivateKey, other: PrivateKey, envelope: bytes) -> None:
    with pytest.raises(SignatureError, match="unknown key"):
        dsse.verify(envelope, TYPE, trusting(other))
    revoked = Trust((key.public,), (Revocation(key.public.fingerprint, "lab", "lost", "2026-11-21"),))
    with pytest.raises(SignatureError, match="revoked on 2026-11-21: lost"):
        dsse.verify(envelope, TYPE, revoked)


def test_another_trusted_keys_name_on_a_signature_is_refused(
    key: PrivateKey, other: PrivateKey, envelope: bytes
) -> None:
    value = json.loads(envelope)
    value["signatures"][0]["keyid"] = other.public.fingerprint
    with pytest.raises(SignatureError, match="not one of other over these bytes"):
        dsse.verify(json.dumps(value).encode(), TYPE, trusting(key, other))


def _twice(value: dict[str, Any]) -> Any:
    value["signatures"] *= 2


ALTERATIONS: dict[str, Change] = {
    "another payload": lambda value: value.update(payload=base64.b64encode(b'{"version": 4}').decode()),
    "no payload": lambda value: value.pop("payload"),
    "a payload that is a number": lambda value: value.update(payload=1),
    "base64 with a line feed": lambda value: value.update(payload=value["payload"] + "\n"),
    "base64 without padding": lambda value: value.update(payload=value["payload"].rstrip("=")),
    "base64 with set spare bits": lambda value: value.update(payload=value["payload"][:-2] + "1="),
    "base64 for addresses": lambda value: value.update(payload="_-8="),
    "another type": lambda value: value.update(payloadType="text/plain"),
    "a type of another kind": lambda value: value.update(payloadType=[TYPE]),
    "two signatures": _twice,
    "no signature": lambda value: value.update(signatures=[]),
    "signatures as an object": lambda value: value.update(signatures=dict(enumerate(value["signatures"]))),
    "no key": lambda value: value["signatures"][0].pop("keyid"),
    "an empty key": lambda value: value["signatures"][0].update(keyid=""),
    "a key that is a list": lambda value: value["signatures"][0].update(keyid=[]),
    "an empty signature": lambda value: value["signatures"][0].update(sig=""),
    "another signature": lambda value: value["signatures"][0].update(sig="AAAA"),
    "one more field": lambda value: value.update(extra=1),
    "one more field of a signature": lambda value: value["signatures"][0].update(extra=1),
}


@pytest.mark.parametrize("how", ALTERATIONS)
def test_an_envelope_is_refused_with(how: str, key: PrivateKey, envelope: bytes) -> None:
    value = json.loads(envelope)
    ALTERATIONS[how](value)
    with pytest.raises(SignatureError):
        dsse.verify(json.dumps(value).encode(), TYPE, trusting(key))


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"null", b"{", b"\xff", b'{"a":NaN}', b"[" * 100_000, b" " * (dsse.MOST_ENVELOPE_BYTES + 1)],
    ids=["empty", "list", "null", "cut", "no text", "no number", "deep", "large"],
)
def test_what_is_no_envelope_is_refused(content: bytes, key: PrivateKey) -> None:
    with pytest.raises(SignatureError, match="the signature does not hold"):
        dsse.verify(content, TYPE, trusting(key))


@pytest.mark.parametrize(
    "content",
    [b"{}", PAYLOAD, json.dumps({"payload": "", "payloadType": TYPE, "signatures": []}).encode()],
    ids=["nothing", "a bare payload", "an envelope without a signature"],
)
def test_what_nobody_signed_is_told_apart_from_what_was_altered(content: bytes, key: PrivateKey) -> None:
    with pytest.raises(
        SignatureError, match=r"^nobody signed it; publishing it again with AMOEBA_SIGNING_KEY set does$"
    ):
        dsse.verify(content, TYPE, trusting(key))


def test_a_field_that_stands_twice_is_refused(key: PrivateKey, envelope: bytes) -> None:
    twice = envelope.replace(b'{"payload":', b'{"payload":"","payload":', 1)
    with pytest.raises(SignatureError, match="a name stands twice"):
        dsse.verify(twice, TYPE, trusting(key))


def test_every_flipped_byte_is_refused_or_changes_nothing_that_was_signed(key: PrivateKey, envelope: bytes) -> None:
    for place in range(len(envelope)):
        flipped = bytearray(envelope)
        flipped[place] ^= 1
        with pytest.raises(SignatureError):
            dsse.verify(bytes(flipped), TYPE, trusting(key))
