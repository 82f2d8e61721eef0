"""Whether text that is learned from holds what is measured on: the same 13 tokens in a row.

The length is that of GPT-3's check (Brown et al. 2020, arXiv 2005.14165, appendix C). A question that is shorter with its
choice is looked for as a whole, without its first token, which is written otherwise in the middle of a text; one of which
fewer than eight tokens are left would be found by chance, is not looked for, and is counted. A run goes over no end of a
document.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from components.evaluate import Question

RUN_TOKENS = 13
LEAST_TOKENS = 8

Run = tuple[int, ...]


@dataclass(frozen=True)
class Contamination:
    """What was left out of the training text, and what of the evaluation is in what remains: nothing."""

    documents_read: int
    documents_left_out: int
    chat_windows_left_out: int
    windows_overlapping: int
    questions_overlapping: int
    questions_too_short: int
    """Not looked for."""

    def __post_init__(self) -> None:
        if self.windows_overlapping or self.questions_overlapping:
            raise ValueError(
                f"{self.windows_overlapping} evaluation windows and {self.questions_overlapping} questions are in the "
                "training text; no such text may be learned from"
            )

    @property
    def facts(self) -> dict[str, Any]:
        return {"run_tokens": RUN_TOKENS, "least_tokens": LEAST_TOKENS, **asdict(self)}


class Measured:
    """All that is measured on: evaluation windows, then questions, known by the runs that they hold."""

    def __init__(
        self, windows: Sequence[Sequence[int]], questions: Sequence[Question], between: Collection[int]
    ) -> None:
        """Tokens of `between` are of no text: they end one, or begin one."""
        self._between, self._windows = frozenset(between), len(windows)
        self._items: dict[int, dict[Run, set[int]]] = defaultdict(lambda: defaultdict(set))
        for item, window in enumerate(windows):
            self._know(item, self._runs(window, RUN_TOKENS))
        self.too_short = 0
        for item, question in enumerate(questions, self._windows):
            runs = [run for choice in question.choices for run in self._of((*question.context, *choice))]
            self._know(item, runs)
            self.too_short += not runs

    def held_by(self, rows: Iterable[Sequence[int]]) -> set[int]:
        """The items of which a row holds a run."""
        return {
            item
            for row in rows
            for length, known in self._items.items()
            for run in self._runs(row, length)
            if run in known
            for item in known[run]
        }

    def count(self, items: set[int]) -> tuple[int, int]:
        """How many of the items are windows, and how many are questions."""
        windows = sum(item < self._windows for item in items)
        return windows, len(items) - windows

    def _know(self, item: int, runs: Iterable[Run]) -> None:
        for run in runs:
            self._items[len(run)][run].add(item)

    def _of(self, tokens: Sequence[int]) -> Iterator[Run]:
        if len(tokens) >= RUN_TOKENS:
            yield from self._runs(tokens, RUN_TOKENS)
        elif len(tokens) > LEAST_TOKENS:
            yield tuple(tokens[1:])

    def _runs(self, tokens: Sequence[int], length: int) -> Iterator[Run]:
        for start in range(len(tokens) - length + 1):
            run = tuple(tokens[start : start + length])
            if self._between.isdisjoint(run):
                yield run
