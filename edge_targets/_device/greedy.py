"""Reading in chunks and writing greedily, over anything that appends tokens to a cache of its own.

Legend: S positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .limits import Limits
from .runner import Passage

PREFILL_TOKENS = 512
"""Longest run of tokens at once: activations grow with it, speed hardly does."""


class GreedyRunner:
    """A loaded package; see `runner.Runner`. `start` begins a passage whose runs are of `PREFILL_TOKENS` at most."""

    def __init__(self, known: Mapping[str, Any], runs_on: str, start: Callable[[], Passage]) -> None:
        self.runs_on = runs_on
        self._limits = Limits.of(known)
        self._end_tokens = frozenset(known["eos_token_ids"])
        self._start = start

    @property
    def gpu_memory_mb(self) -> float:
        """See `runner.Runner`."""
        return 0.0

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Next-token logits after every position, [S, V]; raises ValueError for tokens it cannot take."""
        return self.passage().run(tokens, logits_from=0)

    def passage(self) -> Passage:
        """An empty text; see `runner.Passage`."""
        return _Checked(self._start, self._limits)

    def generate(self, tokens: Sequence[int], max_new_tokens: int, *, to_the_end: bool = False) -> Iterator[int]:
        """Greedy continuation; the end-of-sequence token ends it and is not yielded. Raises ValueError at the call."""
        self._limits.check(tokens, max_new_tokens)
        return self._continue(tokens, max_new_tokens, frozenset() if to_the_end else self._end_tokens)

    def _continue(self, tokens: Sequence[int], max_new_tokens: int, ends: frozenset[int]) -> Iterator[int]:
        passage = self.passage()
        wanted = tokens
        for _ in range(max_new_tokens):
            token = int(passage.run(wanted, logits_from=len(wanted) - 1).argmax())
            if token in ends:
                return
            yield token
            wanted = [token]


class _Checked:
    """A passage within the package's limits that takes as many tokens at once as there are."""

    def __init__(self, start: Callable[[], Passage], limits: Limits) -> None:
        self._start, self._limits = start, limits
        self._passage: Passage | None = None
        self._length = 0

    def run(self, tokens: Sequence[int], logits_from: int) -> NDArray[np.float32]:
        self._limits.check(tokens, max_new_tokens=0, read=self._length)
        if self._passage is None:  # tokens that are refused cost no cache
            self._passage = self._start()
        pieces = []
        for begin in range(0, len(tokens), PREFILL_TOKENS):
            chunk = tokens[begin : begin + PREFILL_TOKENS]
            skipped = max(0, logits_from - begin)
            # A run gives one row at least; those before what is wanted are left out.
            rows_SV = self._passage.run(chunk, min(skipped, len(chunk) - 1))
            if skipped < len(chunk):
                pieces.append(rows_SV)
        self._length += len(tokens)
        return np.concatenate(pieces)

    def rewind(self, length: int) -> None:
        if not 0 <= length <= self._length:
            raise ValueError(
                f"a passage of {self._length} tokens goes back to 0 to {self._length} of them, got {length}"
            )
        if self._passage is not None:
            self._passage.rewind(length)
        self._length = length
