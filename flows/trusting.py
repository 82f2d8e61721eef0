"""Whom this machine believes and what it signs with, from the environment and the user's own folder."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import typer

from components.progress import say
from flows.settings import WorkspaceError, settings
from registry.errors import RefusedError
from registry.keys import KeyFile
from registry.manifest import Manifest
from registry.signature import check, read_signature
from registry.trust import Signer, Trust, Wanted


def own_folder() -> Path:
    """Where `amoeba keys trust` puts a key: AMOEBA_TRUST, or `keys` in the user's configuration folder."""
    return settings().trust or configuration() / "keys"


def configuration() -> Path:
    """The user's configuration folder, as the system has it."""
    return Path(typer.get_app_dir("amoeba"))


def folders() -> tuple[Path, ...]:
    """Where trusted keys are: AMOEBA_TRUST alone, or else the user's folder and the workspace's, if there is one."""
    chosen = settings().trust
    if chosen is not None:
        return (chosen,)
    found = [own_folder()]
    with suppress(WorkspaceError):  # a device that only pulls and runs has no workspace
        found.append(settings().home / "keys")
    return tuple(found)


def trust(signature: Wanted = "when known") -> Trust:
    """Everything that is believed here; raises RefusedError for keys that cannot be read."""
    chosen = settings().trust
    if chosen is not None and not chosen.is_dir():
        raise RefusedError(
            f"AMOEBA_TRUST names {chosen}, which is no folder, so nobody is believed; `amoeba keys trust FILE` makes it"
        )
    return Trust.read(*folders(), wanted=signature)


def signing_key() -> KeyFile | None:
    """What signs what is published, None where nothing does."""
    path, password = settings().signing_key, settings().signing_key_password
    return None if path is None else KeyFile(path, password.get_secret_value() if password else None)


def wanted(required: bool, unsigned_allowed: bool) -> Wanted:
    """What two flags ask for; raises ValueError for both at once."""
    if required and unsigned_allowed:
        raise ValueError("--require-signature and --allow-unsigned say opposite things; give one of them")
    if unsigned_allowed:
        say("warning: what nobody signed is taken: anybody who can write to the registry can have made it")
    return "always" if required else "never" if unsigned_allowed else "when known"


def signer_of(folder: Path, manifest: Manifest, signature: Wanted = "when known") -> Signer | None:
    """Who signed what a folder holds, None where nobody can be told; raises SignatureError."""
    return check(read_signature(folder), manifest, trust(signature))


def told(signer: Signer | None) -> str:
    """What a person is told of who signed."""
    return f"signed by {signer}" if signer else "unverified: no trusted key vouches for who made them"
