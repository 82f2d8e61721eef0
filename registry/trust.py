"""Whom a device believes: folders of public keys, and what was revoked.

1. Every `NAME.pem` of a folder is trusted: several at once is how one key follows another.
2. `revoked/FINGERPRINT.json` beside them takes a key back for good, whatever it signed and when: there is no clock to trust.
   The file's name alone decides, so one that is cut short still revokes. A revocation in any folder holds for all.
3. Once a key is known, a signature by a trusted one is wanted. Revoking the last one does not bring back the time before.
4. A folder or a file that anybody may write is refused: whoever can add a key can sign for it. To a folder of a read-only
   mount, such as a secret's, nobody here adds one, whatever its mode says.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from registry.errors import RefusedError, SignatureError
from registry.keys import PUBLIC_SUFFIX, PublicKey, check_name, write_new

Wanted = Literal["when known", "always", "never"]
"""When an artifact must be signed: where any key is known, everywhere, or nowhere."""
REVOKED_FOLDER = "revoked"
_FINGERPRINT_FILE = re.compile(r"[0-9a-f]{64}\.json")
_MOST_KEYS = 1000
_MOST_REASON_CHARACTERS = 500


@dataclass(frozen=True)
class Signer:
    """Who signed: a trusted key's name and fingerprint."""

    name: str
    fingerprint: str

    def __str__(self) -> str:
        return f"{self.name} ({self.fingerprint[:12]})"


@dataclass(frozen=True)
class Revocation:
    """A key that is trusted no more, why, and since when; both are empty where that was not noted."""

    fingerprint: str
    name: str = ""
    reason: str = ""
    date: str = ""


@dataclass(frozen=True)
class Trust:
    """The keys that are known here, and what is asked of a signature."""

    keys: tuple[PublicKey, ...] = ()
    revoked: tuple[Revocation, ...] = ()
    wanted: Wanted = "when known"

    def __post_init__(self) -> None:
        if self.wanted not in ("when known", "always", "never"):
            raise ValueError(f"a signature is wanted 'when known', 'always' or 'never', not {self.wanted!r}")

    @classmethod
    def read(cls, *folders: Path, wanted: Wanted = "when known") -> Trust:
        """What the folders hold together; one that is not there holds nothing. Raises RefusedError."""
        keys: dict[str, PublicKey] = {}
        revoked: dict[str, Revocation] = {}
        for folder in folders:
            for path in _files(folder):
                if path.suffix == PUBLIC_SUFFIX:
                    key = PublicKey.read(path)
                    keys.setdefault(key.fingerprint, key)
            for path in _files(folder / REVOKED_FOLDER):
                revocation = _read_revocation(path)
                revoked.setdefault(revocation.fingerprint, revocation)
        return cls(tuple(keys.values()), tuple(revoked.values()), wanted)

    @property
    def knows_a_key(self) -> bool:
        return bool(self.keys or self.revoked)

    @property
    def required(self) -> bool:
        """Whether what is not signed is refused."""
        return self.wanted == "always" or (self.wanted == "when known" and self.knows_a_key)

    def key(self, fingerprint: str) -> PublicKey:
        """The trusted key of this fingerprint; raises SignatureError for one that is unknown or revoked."""
        known = next((key for key in self.keys if key.fingerprint == fingerprint), None)
        revocation = self.revocation(fingerprint)
        if revocation is not None:
            name = revocation.name or (known.name if known else fingerprint[:12])
            since, why = revocation.date or "an unknown date", revocation.reason or "no reason noted"
            raise SignatureError(
                f"signed by the key {name} ({fingerprint[:12]}), which was revoked on {since}: {why}; "
                "ask the publisher for a version that another key signed"
            )
        if known is None:
            trusted = ", ".join(key.name for key in self.keys) or "none"
            raise SignatureError(
                f"signed by an unknown key ({fingerprint[:12]}); trusted here: {trusted}. "
                "Where you have that key from somebody you believe, `amoeba keys trust FILE` adds it"
            )
        return known

    def check_signing(self, key: PublicKey) -> None:
        """Raise SignatureError where signatures are wanted and one by this key would not be taken."""
        revocation = self.revocation(key.fingerprint)
        if not self.required or (key.fingerprint in {one.fingerprint for one in self.keys} and revocation is None):
            return
        why = f"was revoked: {revocation.reason or 'no reason noted'}" if revocation else "is not trusted"
        raise SignatureError(
            f"the signing key {key.name} ({key.fingerprint[:12]}) {why}, so nobody here would believe what it signs; "
            "set AMOEBA_SIGNING_KEY to a key that is trusted (`amoeba keys list`)"
        )

    def revocation(self, fingerprint: str) -> Revocation | None:
        return next((one for one in self.revoked if one.fingerprint == fingerprint), None)


NOBODY = Trust()
"""No key is known: what is pulled is checked against its manifest, and nobody vouches for that."""


def add_key(folder: Path, file: Path, name: str | None = None) -> PublicKey:
    """Trust the public key in `file` from now on; a key that is there under this name already stays as it is.

    Raises RefusedError for what is no public key, and where another key has the name.
    """
    given = PublicKey.read(file)
    key = PublicKey(check_name(name or given.name), given.key)
    place = folder / f"{key.name}{PUBLIC_SUFFIX}"
    folder.mkdir(parents=True, exist_ok=True)
    if place.exists() and PublicKey.read(place).fingerprint == key.fingerprint:
        return key
    write_new(place, key.pem, 0o644)
    return key


def revoke(folder: Path, key: PublicKey, reason: str, today: datetime.date) -> Revocation:
    """Trust a key no more, noting why; one that is revoked already stays as it was noted.

    Raises RefusedError for a reason that is no short line.
    """
    if not 0 < len(reason) <= _MOST_REASON_CHARACTERS or not reason.isprintable():
        raise RefusedError(f"a reason is one line of 1 to {_MOST_REASON_CHARACTERS} characters, got {reason[:80]!r}")
    place = folder / REVOKED_FOLDER / f"{key.fingerprint}.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.exists():
        noted = {"name": key.name, "reason": reason, "date": today.isoformat()}
        write_new(place, f"{json.dumps(noted, indent=1)}\n".encode(), 0o644)
    return _read_revocation(place)


def _read_revocation(path: Path) -> Revocation:
    if not _FINGERPRINT_FILE.fullmatch(path.name):
        raise RefusedError(
            f"{path} revokes no key: a revocation is called by the key's fingerprint, 64 hexadecimal digits and .json; "
            "`amoeba keys revoke NAME --reason WHY` writes it"
        )
    try:
        with path.open("rb") as file:
            noted = json.loads(file.read(_MOST_REASON_CHARACTERS * 20))
        told = {name: str(noted.get(name, ""))[:_MOST_REASON_CHARACTERS] for name in ("name", "reason", "date")}
    except (OSError, ValueError, AttributeError, RecursionError):
        told = {}
    return Revocation(path.stem, **told)


def _files(folder: Path) -> list[Path]:
    """A folder's files, sorted, without hidden ones; raises RefusedError where anybody may write, or where there are too many."""
    if not os.path.lexists(folder):
        return []
    if not folder.is_dir():
        raise RefusedError(f"{folder} is to hold keys and is no folder; remove it, or name another in AMOEBA_TRUST")
    found = sorted(path for path in folder.iterdir() if not path.is_dir() and not path.name.startswith("."))
    if len(found) > _MOST_KEYS:
        raise RefusedError(f"{folder} holds {len(found)} files; {_MOST_KEYS} keys are the most that is read")
    if os.name != "posix":
        return found
    fixed = os.statvfs(folder).f_flag & os.ST_RDONLY
    for path in found if fixed else (folder, *found):
        if stat.S_IMODE(path.stat().st_mode) & 0o002:
            raise RefusedError(f"anybody may write {path}, and so sign for everybody; chmod o-w {path}")
    return found
