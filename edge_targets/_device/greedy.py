"""Reading in chunks and writing greedily, over anything that appends tokens to a cache of its own.

Legend: S positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .limits import Limits

PREFILL_TOKENS = 512
"""Longest run of tokens at once: activations grow with it, speed hardly does."""


class Passage(Protocol):
    """One sequence on its way through the model."""

    def run(self, tokens: Sequence[int], logits_from: int) -> NDArray[np.float32]:
        """Append the tokens; logits after each of them from the `logits_from`th on, [wanted tokens, vocabulary]."""
        ...


class GreedyRunner:
    """A loaded package; see `runner.Runner`. `passage` starts a sequence with an empty cache."""

    def __init__(self, known: Mapping[str, Any], passage: Callable[[], Passage]) -> None:
        self._limits = Limits.of(known)
        self._end_tokens = frozenset(known["eos_token_ids"])
        self._passage = passage

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Next-token logits after every position, [S, V]; raises ValueError for tokens it cannot take."""
        self._limits.check(tokens, max_new_tokens=0)
        passage = self._passage()
        return np.concatenate([passage.run(chunk, logits_from=0) for chunk in _chunks(tokens)])

    def generate(self, tokens: Sequence[int], max_new_tokens: int, *, to_the_end: bool = False) -> Iterator[int]:
        """Greedy continuation; the end-of-sequence token ends it and is not yielded. Raises ValueError at the call."""
        self._limits.check(tokens, max_new_tokens)
        return self._continue(tokens, max_new_tokens, frozenset() if to_the_end else self._end_tokens)

    def _continue(self, tokens: Sequence[int], max_new_tokens: int, ends: frozenset[int]) -> Iterator[int]:
        passage = self._passage()
        wanted = _chunks(tokens)
        for _ in range(max_new_tokens):
            for chunk in wanted:
                last_logits = passage.run(chunk, logits_from=len(chunk) - 1)
            token = int(last_logits.argmax())
            if token in ends:
                return
            yield token
            wanted = [[token]]


def _chunks(tokens: Sequence[int]) -> list[Sequence[int]]:
    return [tokens[start : start + PREFILL_TOKENS] for start in range(0, len(tokens), PREFILL_TOKENS)]
