"""Which version is released: a trail of promotions that only grows, and what it says of every alias.

MLflow sets an alias without asking what it was, so of two publishers at once one would undo the other and nobody would know.
What MLflow does do in one step is to number a version. Hence

1. a promotion is a version of a model of its own, `<registered model>~promotions`, with the whole record as its tag;
2. the record says which number it is to get, the one after the newest its author saw. If the registry gives it another, then
   someone promoted meanwhile: the record is void to every reader, and its author looks again;
3. what an alias points to is what the newest valid record of it says. MLflow's own aliases follow, for people and for other
   tools; where no record names an alias, MLflow's own is taken;
4. `previous` is what the newest record of `production` replaced;
5. records are never changed or removed: the trail is the audit;
6. a record is signed where a key is configured, in a DSSE envelope. Who wants signatures passes over records that no trusted
   key signed, and takes no alias from MLflow: whoever may write to the registry can still not release anything.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from registry import dsse, naming
from registry.errors import RefusedError, SignatureError
from registry.keys import KeyFile
from registry.trust import Trust

if TYPE_CHECKING:
    from registry.server import Server

PRODUCTION, PREVIOUS, CANDIDATE = "production", "previous", "candidate"
RECORD_TAG = "amoeba.promotion"
PAYLOAD_TYPE = "application/vnd.amoeba.promotion+json"
FORMAT_VERSION = 1
_TRAIL = "~promotions"
_MOST_TEXT = 500
_MOST_RECORD = 4000
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Promotion:
    """One record: from then on `alias` of `model` is `version`, whose manifest has the SHA-256 `manifest`."""

    model: str
    """The registered model."""
    serial: int
    alias: str
    version: str
    manifest: str
    before: str | None
    """The version that the alias was at."""
    reason: str
    by: str
    at: str
    """UTC, by the clock of its author; nothing is decided by it."""
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        texts = (self.model, self.alias, self.version, self.manifest, self.before or "", self.reason, self.by, self.at)
        if not all(isinstance(text, str) and len(text) <= _MOST_TEXT for text in texts):
            raise RefusedError(f"what a promotion says is text of up to {_MOST_TEXT} characters")
        if type(self.serial) is not int or self.serial < 1 or self.format_version != FORMAT_VERSION:
            raise RefusedError(f"promotion {self.serial!r} of format {self.format_version!r} is not of this format")
        naming.check_registered(self.model)
        naming.check_alias(self.alias)

    def canonical(self) -> str:
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), allow_nan=False)

    @classmethod
    def parse(cls, text: str) -> Promotion:
        """Raises RefusedError for anything that `canonical` did not write."""
        try:
            found = cls(**json.loads(text))
        except (ValueError, TypeError, RecursionError) as error:
            raise RefusedError(f"a promotion is not of this format: {error}") from error
        if found.canonical() != text:
            raise RefusedError("a promotion is not in canonical form")
        return found


@dataclass(frozen=True)
class Trail:
    """The valid records of one registered model, newest first, and the highest number given out so far."""

    records: tuple[Promotion, ...]
    newest: int

    def of(self, alias: str, version: str | None = None) -> Promotion | None:
        """The newest record of an alias, or the newest that promoted a version to it."""
        of_alias = (record for record in self.records if record.alias == alias)
        return next((record for record in of_alias if version in (None, record.version)), None)

    def aliases(self) -> dict[str, str]:
        """Version by alias, as far as records name them."""
        found: dict[str, str] = {}
        for record in self.records:
            found.setdefault(record.alias, record.version)
        production = self.of(PRODUCTION)
        if production is not None and production.before is not None:
            found[PREVIOUS] = production.before
        return found


def name_of_trail(registered_model: str) -> str:
    """No base and no target can be called so."""
    return f"{naming.check_registered(registered_model)}{_TRAIL}"


def read(server: Server, registered_model: str, trust: Trust | None = None) -> Trail:
    """All records that `trust` believes, or the server's own; none where nothing was promoted yet."""
    trust = trust or server.trust
    found = server.versions_of(name_of_trail(registered_model))
    valid = (_valid(registered_model, int(one.version), one.tags, trust) for one in found)
    return Trail(tuple(record for record in valid if record), max((int(one.version) for one in found), default=0))


def sealed(record: Promotion, key: KeyFile | None) -> str:
    """What the trail keeps of a record: signed where there is a key. Raises RefusedError for more than readers take."""
    text = record.canonical()
    if key is not None:
        text = dsse.sign(PAYLOAD_TYPE, text.encode(), key.read()).decode()
    if len(text.encode()) > _MOST_RECORD:
        raise RefusedError(
            f"with a reason of {len(record.reason)} characters the promotion's record has {len(text.encode())} bytes, and readers "
            f"take {_MOST_RECORD}; give a shorter one, or one in ASCII, which takes less"
        )
    return text


def opened(text: str, trust: Trust) -> Promotion:
    """Raises SignatureError where a signature is wanted that is not there or does not hold, RefusedError for no record."""
    content = text.encode()
    if len(content) > _MOST_RECORD:
        raise RefusedError(f"a promotion has at most {_MOST_RECORD} bytes")
    if trust.required:
        content, _ = dsse.verify(content, PAYLOAD_TYPE, trust)
    elif content.startswith(b'{"payload"'):
        content = dsse.unverified(content)
    return Promotion.parse(content.decode(errors="replace"))


def _valid(registered_model: str, number: int, tags: Mapping[str, str], trust: Trust) -> Promotion | None:
    try:
        record = opened(tags.get(RECORD_TAG, ""), trust)
    except (RefusedError, SignatureError) as error:
        _log.warning("promotion %d of %s is passed over: %s", number, registered_model, error)
        return None
    # A record with another number lost a race; one of another model was copied here.
    return record if (record.serial, record.model) == (number, registered_model) else None
