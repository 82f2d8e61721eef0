"""Room on the workspace's disk: what was computed and is kept to be quick, and how long nobody used it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from components import kept
from components.progress import say
from flows.settings import WorkspaceError, settings

KEPT = ("bases", "built", "checked", "environments", "packages", "registered", "subnets", "unfinished")
"""Folders of the cache whose folders a later run makes again where they are gone; figures are small, and are never removed."""
_BUSY_HOURS = 24.0
"""What was used so lately may be in use."""


@dataclass(frozen=True)
class Piece:
    """A folder of the cache."""

    path: Path
    size: int
    """Bytes."""
    unused_hours: float

    @property
    def name(self) -> str:
        return str(self.path.relative_to(settings().cache))


def pieces() -> tuple[Piece, ...]:
    """All of them, what nobody used for longest first; none outside of a workspace."""
    return tuple(sorted(_pieces(), key=lambda piece: -piece.unused_hours))


def to_remove(
    found: Sequence[Piece], unused_hours: float, budget_bytes: int | None = None, busy_hours: float = _BUSY_HOURS
) -> tuple[Piece, ...]:
    """What nobody used for so long; with a budget, what must go beside it, longest unused first, until the rest is within.

    What was used in the last `busy_hours` stays, whatever the budget.
    """
    left = total(found)
    chosen = []
    for piece in sorted(found, key=lambda piece: -piece.unused_hours):
        too_much = budget_bytes is not None and left > budget_bytes
        if piece.unused_hours >= busy_hours and (piece.unused_hours >= unused_hours or too_much):
            chosen.append(piece)
            left -= piece.size
    return tuple(chosen)


def total(found: Sequence[Piece]) -> int:
    """Bytes."""
    return sum(piece.size for piece in found)


def budget_bytes(megabytes: int | None = None) -> int | None:
    """What is given, else what the workspace is set to keep at most."""
    chosen = settings().workspace_megabytes if megabytes is None else megabytes
    return None if chosen is None else chosen * 1_000_000


def keep_within_budget() -> None:
    """Remove what was used longest ago where the workspace's cache has more than it is set to keep; says what went."""
    budget = budget_bytes()
    if budget is None:
        return
    gone = to_remove(pieces(), float("inf"), budget)
    for piece in gone:
        remove(piece)
    if gone:
        say(
            f"{len(gone)} pieces of the cache, {total(gone) / 1e6:.0f} MB, made room: AMOEBA_WORKSPACE_MEGABYTES is set"
        )


def remove(piece: Piece) -> None:
    """A kill meanwhile leaves it whole or gone."""
    kept.forget(piece.path)


def _pieces() -> Iterator[Piece]:
    try:
        cache = settings().cache
    except WorkspaceError:
        return
    now = time.time()
    for name in KEPT:
        for path in (cache / name).glob("[!.]*"):
            with suppress(FileNotFoundError):  # another process made room meanwhile
                if path.is_dir():
                    yield Piece(path, _size(path), (now - kept.used_at(path)) / 3600)


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
