"""Finding a version: by number, by alias as it was promoted, by tag."""

from __future__ import annotations

import difflib
import re
from dataclasses import replace

from registry import naming, promotions
from registry.errors import DamagedError, NotFoundError, SignatureError
from registry.promotions import PREVIOUS, PRODUCTION, Promotion, Trail
from registry.server import Server, Version


def models(server: Server) -> tuple[str, ...]:
    """Every registered model with the name of a base or package, sorted; trails and others' models have none."""
    return tuple(filter(naming.is_registered, server.names()))


def every(server: Server, registered_model: str) -> tuple[Version, ...]:
    """All versions, newest first, none where a publisher was stopped before its first.

    Raises NotFoundError for a model that is not there, RefusedError for what cannot be a model's name.
    """
    naming.check_registered(registered_model)
    known = aliases(server, registered_model)
    return tuple(_with(known, version) for version in server.versions_of(registered_model))


def resolve(server: Server, registered_model: str, alias_or_version: str) -> Version:
    """The version of `released`, whatever made it so."""
    return released(server, registered_model, alias_or_version)[0]


def released(server: Server, registered_model: str, alias_or_version: str) -> tuple[Version, Promotion | None]:
    """The version an alias points to, or the version of that number, and the record that promoted it, if one did.

    Raises NotFoundError, RefusedError, SignatureError where signed promotions are wanted and there is none, or
    DamagedError for a version that is not the one that was promoted.
    """
    naming.check_registered(registered_model)
    trail = promotions.read(server, registered_model)
    known = aliases(server, registered_model, trail)
    asked = alias_or_version if re.fullmatch("[0-9]{1,9}", alias_or_version) else known.get(alias_or_version)
    found = server.version(registered_model, asked) if asked is not None else None
    if found is not None:
        record = trail.of(PRODUCTION if alias_or_version == PREVIOUS else alias_or_version)
        held_to = trail.of(PRODUCTION, found.version) if alias_or_version == PREVIOUS else record
        if held_to is not None:
            check_promoted(found, held_to)
        return _with(known, found), record
    if server.trust.required and asked is None and alias_or_version in (server.aliases(registered_model) or {}):
        raise SignatureError(
            f"no promotion of {registered_model} to {alias_or_version} is signed by a trusted key; ask its publisher, "
            "or pull a version by its number"
        )
    if alias_or_version in known:
        raise NotFoundError(
            f"{registered_model}@{alias_or_version} is version {asked}, which the registry no longer has; "
            "promote another version to it, or pull one by its number"
        )
    has = ", ".join([*sorted(known), *(version.version for version in server.versions_of(registered_model)[:5])])
    raise NotFoundError(
        f"{registered_model} has no version or alias {alias_or_version[:80]!r}; it has {has or 'none yet'}"
    )


def check_promoted(version: Version, record: Promotion) -> None:
    """Raise DamagedError where the version of a record's number is not the very one that it promoted."""
    if record.version == version.version and record.manifest != version.manifest_digest:
        raise DamagedError(
            f"{version.registered_model} version {version.version} is not what was promoted to {record.alias}: its manifest "
            "is another; pull a version by its number, or publish again"
        )


def find(server: Server, registered_model: str, tag: str, value: str) -> Version | None:
    """The newest version with this tag, None where there is none."""
    versions = server.versions_of(naming.check_registered(registered_model))
    return next((version for version in versions if version.tags.get(tag) == value), None)


def aliases(server: Server, registered_model: str, trail: Trail | None = None) -> dict[str, str]:
    """Version by alias: what was promoted, and MLflow's own for aliases that no promotion names."""
    own = check_there(server, registered_model)
    trail = trail or promotions.read(server, registered_model)
    # Anyone who may write to the registry can set an alias: where signatures are wanted, that is not enough.
    return {**({} if server.trust.required else own), **trail.aliases()}


def check_there(server: Server, registered_model: str) -> dict[str, str]:
    """MLflow's own aliases of a model; raises NotFoundError with the nearest name where no such model is registered."""
    own = server.aliases(registered_model)
    if own is None:
        raise NotFoundError(_unknown(server, registered_model))
    return own


def _with(known: dict[str, str], version: Version) -> Version:
    return replace(
        version, aliases=tuple(sorted(alias for alias, number in known.items() if number == version.version))
    )


def _unknown(server: Server, registered_model: str) -> str:
    known = models(server)
    near = difflib.get_close_matches(registered_model, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(known) or 'none yet'}"
    return f"the registry has no model {registered_model!r}; {hint}"
