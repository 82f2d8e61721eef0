"""Moving an alias: recorded first, in one step that fails when someone else was faster, then shown in MLflow.

A promoter killed at any point has promoted or has not; MLflow's own alias may then be behind, and follows at the next promotion.
"""

from __future__ import annotations

import getpass
import logging
import os
import platform
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime

from registry import promotions, versions
from registry.errors import ConflictError, NotFoundError, RefusedError
from registry.promotions import PREVIOUS, PRODUCTION, RECORD_TAG, Promotion, Trail
from registry.server import Server, Version

_TRIES = 40
_LONGEST_PAUSE_S = 1.0
_log = logging.getLogger(__name__)


def promote(
    server: Server,
    version: Version,
    alias: str,
    *,
    reason: str,
    by: str,
    expected: str | None = None,
    pause: Callable[[float], None] = time.sleep,
) -> Promotion | None:
    """Record that `alias` is `version` now, and have MLflow's alias follow; None where it was so already.

    Raises ConflictError where the alias is not at the version `expected`, or where others promote all the time, and
    SignatureError where signed promotions are wanted and no key that is trusted would sign this one.
    """
    server.check_signing()
    if alias == PREVIOUS:
        raise RefusedError(f"{PREVIOUS} is what {PRODUCTION} was before; promote to another alias, or roll back")
    registered_model = version.registered_model
    trail_model = promotions.name_of_trail(registered_model)
    server.ensure_model(trail_model, f"Who promoted which version of {registered_model}, and when")
    for attempt in range(_TRIES):
        trail = promotions.read(server, registered_model)
        before = versions.aliases(server, registered_model, trail).get(alias)
        if expected is not None and before != expected:
            raise ConflictError(
                f"{registered_model}@{alias} is at version {before or 'none'}, not {expected}: someone promoted meanwhile; "
                "look at `amoeba history` and decide again"
            )
        if before == version.version:
            if _is_sealed(server, registered_model, alias, version):
                settle(server, registered_model)
                return None
            known = trail.of(alias)  # the same, and what was before it, said again with this key
            before = known.before if known is not None else None
        record = Promotion(
            registered_model,
            trail.newest + 1,
            alias,
            version.version,
            version.manifest_digest,
            before,
            reason,
            by,
            datetime.now(UTC).isoformat(timespec="seconds"),
        )
        given = server.create_version(
            trail_model, version.source, version.run_id, {RECORD_TAG: promotions.sealed(record, server.signing_key)}
        )
        # Where the answer was lost MLflow asked twice: the first of the two then has the number, and counts.
        if given == record.serial or promotions.read(server, registered_model).of(alias) == record:
            settle(server, registered_model)
            return record
        pause(random.uniform(0, min(_LONGEST_PAUSE_S, 0.02 * 2**attempt)))
    raise ConflictError(
        f"{registered_model} was promoted by others {_TRIES} times in a row; run the same command again"
    )


def roll_back(server: Server, registered_model: str, *, reason: str, by: str) -> Promotion:
    """Promote what `production` was before; raises NotFoundError where there is nothing to go back to, or no such model.

    One that was stopped between its record and MLflow's aliases is ended, and goes back no further.
    """
    server.check_signing()
    versions.check_there(server, registered_model)
    trail = promotions.read(server, registered_model)
    current = trail.of(PRODUCTION)
    if current is None or current.before is None:
        raise NotFoundError(
            f"{registered_model} has no version before its {PRODUCTION}; `amoeba history` shows what was"
        )
    if _is_this_rollback(trail, reason, by) and _stray(server, registered_model):
        settle(server, registered_model)
        return current
    before = versions.resolve(server, registered_model, PREVIOUS)
    record = promote(server, before, PRODUCTION, reason=reason, by=by, expected=current.version)
    if record is None:
        raise ConflictError(f"{registered_model} was rolled back by someone else meanwhile")
    return record


def _is_this_rollback(trail: Trail, reason: str, by: str) -> bool:
    """Whether the newest record of `production` took back the one before it, with this reason and author."""
    newest, *older = (record for record in trail.records if record.alias == PRODUCTION)
    return bool(older) and (newest.version, newest.reason, newest.by) == (older[0].before, reason, by)


def _is_sealed(server: Server, registered_model: str, alias: str, version: Version) -> bool:
    """Whether the promotion is on record, signed with the configured key where there is one."""
    own = server.own_trust()
    if own is None:
        return True
    record = promotions.read(server, registered_model, own).of(alias)
    return record is not None and record.version == version.version


def author() -> str:
    """Who a record names: the user and machine, as far as they are known."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = str(os.getuid())
    return f"{user}@{platform.node()}"


def settle(server: Server, registered_model: str) -> None:
    """Bring MLflow's aliases to where the trail says, until nobody promoted in between."""
    for _ in range(_TRIES):
        stray = _stray(server, registered_model)
        if not stray:
            return
        for alias, number in stray.items():
            server.set_alias(registered_model, alias, number)
    _log.warning("MLflow's aliases of %s are behind its promotions, which are what counts", registered_model)


def _stray(server: Server, registered_model: str) -> dict[str, str]:
    """Version by alias where MLflow's own is another; those whose version was deleted in MLflow cannot follow."""
    wanted = promotions.read(server, registered_model).aliases()
    now = server.aliases(registered_model) or {}
    stray = {alias: number for alias, number in wanted.items() if now.get(alias) != number}
    gone = {alias: number for alias, number in stray.items() if server.version(registered_model, number) is None}
    for alias, number in gone.items():
        _log.warning("%s@%s is version %s, which the registry no longer has", registered_model, alias, number)
    return {alias: number for alias, number in stray.items() if alias not in gone}
