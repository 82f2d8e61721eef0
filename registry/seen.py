"""The newest promotions that a folder was pulled for, one an alias, so that an older state of the registry is noticed.

A record's serial only grows. Whoever may write to the registry can take records away, or serve yesterday's copy of it, and
every signature still holds; but a device that has seen serial 9 does not take 7 for the newest. Where no signature is wanted
nothing would be gained, and nothing is kept.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from registry import placing
from registry.errors import RefusedError, SignatureError
from registry.promotions import Promotion
from registry.trust import Trust

_MOST_RECORDS = 100
_MOST_BYTES = 1 << 20


def check(to: Path, record: Promotion | None, trust: Trust) -> None:
    """Raise SignatureError for a record older than one that was pulled to this folder for the same alias."""
    if record is None or not trust.required:
        return
    before = _read(to).get((record.model, record.alias))
    if before is not None and record.serial < before.serial:
        raise SignatureError(
            f"the registry says that promotion {record.serial} of {record.model} to {record.alias} is the newest, and {to} has "
            f"seen {before.serial}: an older state of it is being served. Ask its publisher; where it was restored from a "
            f"backup on purpose, remove {_place(to)}"
        )


def note(to: Path, record: Promotion | None, trust: Trust) -> None:
    """Keep a record that was checked, before it is followed; one that another process has seen a newer of is not."""
    if record is None or not trust.required:
        return

    def kept() -> bytes | None:
        known = _read(to)
        before = known.pop((record.model, record.alias), None)
        if before is not None and (before == record or before.serial > record.serial):
            return None
        return "\n".join(one.canonical() for one in [record, *known.values()][:_MOST_RECORDS]).encode()

    placing.write(_place(to), kept, to)


def _place(to: Path) -> Path:
    return to.with_name(f".{to.name}.promotion")


def _read(to: Path) -> dict[tuple[str, str], Promotion]:
    """What was kept by model and alias, the last noted first; lines that cannot be read are nothing."""
    known: dict[tuple[str, str], Promotion] = {}
    with suppress(OSError), _place(to).open("rb") as file:
        for line in file.read(_MOST_BYTES).decode(errors="replace").splitlines():
            with suppress(RefusedError):
                one = Promotion.parse(line)
                known[one.model, one.alias] = one
    return known
