"""Two published frontiers against each other: every member of both timed in turns, its text as when it was published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain, zip_longest

from components.frontier_loss import Member, Succession, succession
from components.gate import Levels
from components.progress import say
from flows import evidence
from flows.bases import Declared
from flows.evidence import Artifact
from flows.explored import Explored, frontier_of
from registry.store import Store


@dataclass(frozen=True)
class Successor:
    """A member of the baseline's frontier and the candidate's of the same shape and quantization."""

    shape: str
    quantization: str
    baseline: str
    candidate: str
    """Version numbers."""
    outcome: Succession


@dataclass(frozen=True)
class Frontiers:
    baseline: tuple[Member, ...]
    candidate: tuple[Member, ...]
    successors: tuple[Successor, ...]


def frontiers(
    registry: Store,
    base: Declared,
    target: str,
    sides: tuple[Artifact, Artifact],
    rounds: int,
    numbers: Mapping[str, int],
    levels: Levels,
) -> Frontiers | None:
    """Both sides' frontiers as they are timed now; None where a side has none, or both the same members.

    Frontiers whose text was measured on other data than this workspace has are left out, and a line says so.
    """
    documents = [frontier_of(registry, side.version) for side in sides]
    older, newer = documents
    if older is None or newer is None or _versions(older) == _versions(newer):
        return None
    here = evidence.data_revision(base)
    if {older.data_revision, newer.data_revision} != {here}:
        say(f"{target}: the frontiers are not compared, since their text is not this workspace's; explore again")
        return None
    side_by_side = chain.from_iterable(zip_longest(_versions(older), _versions(newer)))
    names = tuple(dict.fromkeys(name for name in side_by_side if name is not None))
    pulled = [Artifact.pulled(registry, sides[0].version.registered_model, name) for name in names]
    found = evidence.runs_in_turns(target, [artifact.folder for artifact in pulled], rounds, numbers)
    times = {name: tuple(run["tpot_ms"] for run in runs) for name, runs in zip(names, found["runs"], strict=True)}
    members = [
        {member.version: Member(times[member.version], member.samples.nats) for member in document.members}
        for document in (older, newer)
    ]
    return Frontiers(
        tuple(members[0].values()),
        tuple(members[1].values()),
        tuple(_successors(older, newer, members, levels.false_alarms)),
    )


def _versions(document: Explored) -> tuple[str, ...]:
    return tuple(member.version for member in document.members)


def _successors(older: Explored, newer: Explored, members: list[dict[str, Member]], level: float) -> list[Successor]:
    after = {(member.point.shape, member.point.quantization): member.version for member in newer.members}
    found = []
    for member in older.members:
        kind = member.point.shape, member.point.quantization
        successor = after.get(kind)
        if successor is not None and successor != member.version:
            outcome = succession(members[0][member.version], members[1][successor], level)
            found.append(Successor(*kind, member.version, successor, outcome))
    return found
