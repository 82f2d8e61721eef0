"""What was measured of two sides so far: a gate asks for more of it until it can decide."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from components.gate import Evidence, Pairs
from edge_targets._device.bench import host
from flows import evidence
from flows.bases import Declared
from flows.evidence import Artifact, BaselineError, Recorded


class Session:
    """Both sides of a gate; text and questions of a version that this machine published on the same data are known already."""

    def __init__(
        self, base: Declared, target: str, older: Artifact | Recorded, newer: Artifact, numbers: Mapping[str, int]
    ) -> None:
        """`numbers` decide a run. Raises BaselineError for recorded figures of other data than this workspace has."""
        self._base, self._target, self.numbers = base, target, numbers
        self._older, self._newer = older, newer
        self._data_revision = evidence.data_revision(base)
        self._nats: dict[str, list[float]] = {"older": [], "newer": []}
        self._correct: dict[str, list[bool]] = {"older": [], "newer": []}
        self._runs: dict[str, list[dict[str, float]]] = {"older": [], "newer": []}
        own = evidence.published(newer)
        # Publication asks all there are; of other data the first answers say how many.
        self._questions = len(own.evidence.correct) if own and own.data_revision == self._data_revision else sys.maxsize
        known = older if isinstance(older, Recorded) else evidence.published(older)
        self.in_turns = isinstance(older, Artifact)
        if known and known.data_revision == self._data_revision and _read_alike(older, newer):
            self._nats["older"], self._correct["older"] = list(known.evidence.nats), list(known.evidence.correct)
        elif not self.in_turns:
            raise BaselineError(f"{older} was measured on other data than this workspace has; onboard again")
        self.untimed = ""
        """Why time is not compared; empty where it is."""
        if isinstance(older, Recorded) and older.host != host():
            where = older.host.get("processor", "unknown")
            self.untimed = f"time is not compared, since the baseline's was taken on another machine ({where})"

    def look(self, undecided: set[Pairs] | None, *, pairs: int, questions: int) -> tuple[Evidence, Evidence]:
        """Measure more of what is undecided, everything where that is None; what is known of both sides by then."""
        if undecided is None or "questions" in undecided:
            self.answer(questions)
        if undecided is None or "runs" in undecided:
            self.time(pairs)
        return self.sides()

    def answer(self, questions: int) -> None:
        """Have both sides answer up to that many questions."""
        for name, side in self._artifacts().items():
            have = len(self._correct[name])
            if have < min(questions, self._questions):
                found = evidence.answers(self._base, self._target, side, have, questions)
                self._nats[name] += found["nats"]
                self._correct[name] += found["correct"]
                self._questions = found["questions"]

    def time(self, pairs: int) -> None:
        """Have both sides run up to that many times, in turns.

        Where the older's times are of another day the newer runs alone, once: more of today says no more of that day.
        """
        have = len(self._runs["newer"])
        if self.untimed or have >= pairs or (have and not self.in_turns):
            return
        sides = self._artifacts() if self.in_turns else {"newer": self._newer}
        folders = [side.folder for side in sides.values()]
        found = evidence.runs_in_turns(self._target, folders, pairs - have, self.numbers)
        for name, runs in zip(sides, found["runs"], strict=True):
            self._runs[name] += runs

    def sides(self) -> tuple[Evidence, Evidence]:
        """What is known of the older and of the newer, the questions that both answered."""
        answered = min(map(len, self._correct.values()))
        older, newer = self._evidence("older", answered), self._evidence("newer", answered)
        if isinstance(self._older, Recorded) and not self.untimed:
            was = self._older.evidence
            older = Evidence(older.nats, older.correct, was.ttft_ms, was.tpot_ms, was.memory_mb)
        return older, newer

    def measured(self) -> Recorded:
        """The newer's own figures, for a later gate to be held against."""
        own = self._evidence("newer", len(self._correct["newer"]))
        return Recorded(str(self._newer), own, self._data_revision, host())

    def _artifacts(self) -> dict[str, Artifact]:
        older = {"older": self._older} if isinstance(self._older, Artifact) else {}
        return {**older, "newer": self._newer}

    def _evidence(self, name: str, answered: int) -> Evidence:
        runs: dict[str, Any] = {
            figure: tuple(run[figure] for run in self._runs[name]) for figure in ("ttft_ms", "tpot_ms", "memory_mb")
        }
        return Evidence(tuple(self._nats[name]), tuple(self._correct[name][:answered]), **runs)


def _read_alike(older: Artifact | Recorded, newer: Artifact) -> bool:
    """Whether what was read of the older then is what would be now: by this machine and the newer's runtime; or never again."""
    if isinstance(older, Recorded):
        return True
    was, own = (side.manifest.facts["measurement"] for side in (older, newer))
    return (was.get("host"), was.get("runtime")) == (host(), own.get("runtime"))
