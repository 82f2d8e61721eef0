"""DSSE, the Dead Simple Signing Envelope: a payload, its type, and one ECDSA signature over both.

1. What is signed is the pre-authentication encoding of type and payload, so no payload passes for another type's.
2. An envelope has one payload, one type, one signature, and no other field; each is written in one way only.
3. Nothing of a payload is returned before its signature was found right, by a key that is trusted and not revoked.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from registry.errors import SignatureError
from registry.keys import PrivateKey
from registry.trust import Signer, Trust

MOST_ENVELOPE_BYTES = 20 << 20
"""The largest manifest's paths, escaped, beside their digests, in base64."""
_FIELDS = ("payload", "payloadType", "signatures")
_ALGORITHM = ec.ECDSA(hashes.SHA256())


def pae(payload_type: str, payload: bytes) -> bytes:
    """The pre-authentication encoding: the bytes that a signature is over."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def sign(payload_type: str, payload: bytes, key: PrivateKey) -> bytes:
    """An envelope as JSON, whose `keyid` is the key's fingerprint."""
    signature = key.key.sign(pae(payload_type, payload), _ALGORITHM)
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": payload_type,
        "signatures": [{"keyid": key.public.fingerprint, "sig": base64.b64encode(signature).decode()}],
    }
    return json.dumps(envelope, separators=(",", ":")).encode()


def verify(envelope: bytes, payload_type: str, trust: Trust) -> tuple[bytes, Signer]:
    """The payload of what `sign` made, and who signed it.

    Raises SignatureError for any other form or type, an unknown or revoked key, and what was altered.
    """
    value = read_json(envelope)
    try:
        fingerprint = value["signatures"][0]["keyid"]
    except (TypeError, KeyError, IndexError) as error:
        _check_signed(value)
        raise altered("an envelope names its key") from error
    return open_envelope(value, payload_type, fingerprint, fingerprint, trust)


def unverified(envelope: bytes) -> bytes:
    """The payload, whoever signed it: for those who know no key. Raises SignatureError for what is no envelope."""
    value = read_json(envelope)
    check_fields("an envelope", value, *_FIELDS)
    return _bytes(value["payload"])


def open_envelope(
    envelope: Any, payload_type: str, fingerprint: Any, key_id: str, trust: Trust
) -> tuple[bytes, Signer]:
    """The payload of an envelope that was read already, signed by the key of `fingerprint`, which it calls `key_id`.

    Raises SignatureError.
    """
    _check_signed(envelope)
    check_fields("an envelope", envelope, *_FIELDS)
    if envelope["payloadType"] != payload_type:
        raise altered(f"the payload is of type {str(envelope['payloadType'])[:80]!r}, wanted {payload_type!r}")
    signatures = envelope["signatures"]
    if not isinstance(signatures, list) or len(signatures) != 1:
        raise altered("an envelope has exactly one signature")
    check_fields("a signature", signatures[0], "keyid", "sig")
    if signatures[0]["keyid"] != key_id or not isinstance(fingerprint, str):
        raise altered(f"the signature names the key {str(signatures[0]['keyid'])[:80]!r}, wanted {key_id[:80]!r}")
    payload, signature = _bytes(envelope["payload"]), _bytes(signatures[0]["sig"])
    key = trust.key(fingerprint)
    try:
        key.key.verify(signature, pae(payload_type, payload), _ALGORITHM)
    except InvalidSignature as error:
        raise altered(f"the signature is not one of {key.name} over these bytes") from error
    return payload, Signer(key.name, key.fingerprint)


def read_json(content: bytes) -> Any:
    """JSON of a bounded size in which no name stands twice; raises SignatureError."""
    if len(content) > MOST_ENVELOPE_BYTES:
        raise altered(f"it has more than {MOST_ENVELOPE_BYTES} bytes")
    try:
        return json.loads(content, object_pairs_hook=_each_name_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise altered(f"it is no JSON ({str(error)[:80]})") from error


def check_fields(what: str, value: Any, *names: str) -> None:
    """Raise SignatureError unless `value` is an object of exactly these fields."""
    if not isinstance(value, dict) or set(value) != set(names):
        got = ", ".join(sorted(value))[:120] if isinstance(value, dict) else type(value).__name__
        raise altered(f"{what} has the fields {', '.join(names)}, got {got or 'none'}")


def altered(how: str) -> SignatureError:
    """What is raised wherever a signature does not hold."""
    return SignatureError(f"the signature does not hold: {how}; pull it again, and tell the publisher if that remains")


def _check_signed(value: Any) -> None:
    """Raise SignatureError for what nobody signed: an envelope of no signature, or an object that is no envelope."""
    if isinstance(value, dict) and (value.get("signatures") == [] or not set(_FIELDS) & set(value)):
        raise SignatureError("nobody signed it; publishing it again with AMOEBA_SIGNING_KEY set does")


def _bytes(text: Any) -> bytes:
    """Base64 in its one canonical form."""
    try:
        content = base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise altered("a field is no base64") from error
    if base64.b64encode(content).decode() != text:
        raise altered("a field is base64 of another form than the canonical one")
    return content


def _each_name_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name stands twice")
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")
