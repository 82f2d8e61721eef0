"""Key files: ECDSA on P-256, in PEM. `NAME.key` signs and is the publisher's alone; `NAME.pem` verifies and is for everyone.

1. A private key is made with mode 0600, never over a file that is there, and is not read where others may read it.
2. A key is known by its fingerprint: the SHA-256 of its public half in PEM, as OpenSSF Model Signing names it.
3. A file of keys is bounded, and holds one key of this kind and nothing that another program would read otherwise.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from registry.errors import RefusedError

PRIVATE_SUFFIX, PUBLIC_SUFFIX = ".key", ".pem"
_MOST_KEY_BYTES = 4096
_MOST_NAME_CHARACTERS = 100
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PublicKey:
    """What a signature is verified with, and the name that people know it by."""

    name: str
    key: ec.EllipticCurvePublicKey = field(repr=False, compare=False)
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        check_name(self.name)
        if not isinstance(self.key.curve, ec.SECP256R1):
            raise RefusedError(f"key {self.name} is on the curve {self.key.curve.name}; keys are ECDSA on P-256")
        object.__setattr__(self, "fingerprint", hashlib.sha256(self.pem).hexdigest())

    @classmethod
    def parse(cls, name: str, content: bytes) -> PublicKey:
        """The key in a PEM file's bytes; raises RefusedError for anything else, a private key above all."""
        if b"PRIVATE KEY" in content:
            raise RefusedError(f"{name} holds a private key, which nobody but its owner may have; give its {name}.pem")
        try:
            key = load_pem_public_key(content[: _MOST_KEY_BYTES + 1])
        except (ValueError, UnsupportedAlgorithm) as error:
            raise RefusedError(f"{name} is no public key in PEM ({_first_line(error)}); {_MAKE_ONE}") from error
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise RefusedError(f"{name} is no ECDSA key; {_MAKE_ONE}")
        made = cls(name, key)
        if content.replace(b"\r\n", b"\n").strip() != made.pem.strip():
            raise RefusedError(f"{name} holds more than a public key in PEM; keep each key in a file of its own")
        return made

    @classmethod
    def read(cls, path: Path) -> PublicKey:
        """The key in a file, called by the file's name; raises RefusedError."""
        try:
            with path.open("rb") as file:
                content = file.read(_MOST_KEY_BYTES + 1)
        except OSError as error:
            raise RefusedError(
                f"the public key {path} cannot be read ({error.strerror}); its owner has it as NAME.pem"
            ) from error
        return cls.parse(path.stem, content)

    @property
    def pem(self) -> bytes:
        return self.key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@dataclass(frozen=True)
class PrivateKey:
    """What signs; neither it nor its password is ever printed."""

    name: str
    key: ec.EllipticCurvePrivateKey = field(repr=False, compare=False)
    public: PublicKey = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "public", PublicKey(self.name, self.key.public_key()))


@dataclass(frozen=True)
class KeyFile:
    """Where a private key is, read when something is to be signed."""

    path: Path
    password: str | None = field(default=None, repr=False)

    def read(self) -> PrivateKey:
        """The key; raises RefusedError where others may read it, or where it does not open with this password."""
        try:
            with self.path.open("rb") as file:
                _check_private(self.path, os.fstat(file.fileno()))
                content = file.read(_MOST_KEY_BYTES + 1)
        except OSError as error:
            raise RefusedError(f"the signing key {self.path} cannot be read ({error.strerror}); {_MAKE_ONE}") from error
        try:
            key = load_pem_private_key(content, self.password_bytes)
        except TypeError as error:  # how cryptography tells that a password lacks, or is one too many
            wanted = "unset" if self.password else "set"
            raise RefusedError(f"{self.path} does not open; {wanted} AMOEBA_SIGNING_KEY_PASSWORD") from error
        except (ValueError, UnsupportedAlgorithm) as error:
            raise RefusedError(
                f"{self.path} is no private key in PEM, or AMOEBA_SIGNING_KEY_PASSWORD is not its password; {_MAKE_ONE}"
            ) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise RefusedError(f"{self.path} is no ECDSA key; {_MAKE_ONE}")
        return PrivateKey(self.path.stem, key)

    @property
    def password_bytes(self) -> bytes | None:
        return self.password.encode() if self.password else None


def make_key(name: str, folder: Path, password: str | None = None) -> tuple[Path, Path]:
    """A new pair in `folder`: the private key's file and the public key's.

    Raises RefusedError for a name that is none, and where either file is there already.
    """
    check_name(name)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = PrivateKey(name, ec.generate_private_key(ec.SECP256R1()))
    closed = BestAvailableEncryption(password.encode()) if password else NoEncryption()
    private, public = folder / f"{name}{PRIVATE_SUFFIX}", folder / f"{name}{PUBLIC_SUFFIX}"
    write_new(private, made.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, closed), 0o600)
    try:
        write_new(public, made.public.pem, 0o644)
    except BaseException:
        private.unlink()
        raise
    return private, public


def write_new(path: Path, content: bytes, mode: int) -> None:
    """A whole file that was not there; raises RefusedError where it, or a link of its name, is."""
    made = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        _give_name(made, path)
    except FileExistsError as error:
        raise RefusedError(f"{path} exists and is never overwritten; choose another name") from error
    finally:
        made.unlink(missing_ok=True)


def _give_name(made: Path, path: Path) -> None:
    """Raises FileExistsError; without hard links, as on a memory card, somebody else's file of this moment would be lost."""
    try:
        os.link(made, path)
    except FileExistsError:
        raise
    except OSError:
        if os.path.lexists(path):
            raise FileExistsError(path) from None
        made.rename(path)


def check_name(name: str) -> str:
    """The name as it is when a key may have it; raises RefusedError."""
    if len(name) > _MOST_NAME_CHARACTERS or not _NAME.fullmatch(name):
        raise RefusedError(
            f"{name[:80]!r} is no key's name: up to {_MOST_NAME_CHARACTERS} letters, digits, dots, dashes and "
            "underscores, a letter or digit first"
        )
    return name


def _check_private(path: Path, facts: os.stat_result) -> None:
    """As libpq does with its own: root's may be read by a group, which is how a mounted secret comes to an ordinary user."""
    if os.name != "posix":
        _log.warning("whether others may read %s cannot be known on this system", path)
    elif stat.S_IMODE(facts.st_mode) & (0o037 if facts.st_uid == 0 != os.geteuid() else 0o077):
        raise RefusedError(
            f"{path} has mode {stat.S_IMODE(facts.st_mode):04o}, so others may read it; chmod 600 it, and make a new key "
            "where somebody may have"
        )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].partition(". See ")[0][:120]


_MAKE_ONE = "`amoeba keys new NAME` makes one"
