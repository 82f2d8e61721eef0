"""How likely a model finds each choice of a question: read anew every time, or with what texts share read once. No torch.

Both give the same numbers in float. A quantized runtime may compute a few tokens otherwise than many: with 4-bit products the two
ways differ by tenths of a nat on ONNX Runtime and by more than one on ExecuTorch. The first is the plain way, and all that a
model which only answers logits allows.

Legend: S positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from components.evaluate import Logits, Question


@runtime_checkable
class Scorer(Protocol):
    def score(self, questions: Sequence[Question]) -> Iterator[tuple[float, ...]]:
        """For each question the log-likelihood of each of its choices after its context, in nats."""
        ...


class Passage(Protocol):
    """One text on its way through a model, which keeps what it has read in a KV cache."""

    def run(self, tokens: Sequence[int], logits_from: int) -> NDArray[np.float32]:
        """Append the tokens; logits after each of them from the `logits_from`th on, [wanted tokens, V]."""
        ...

    def rewind(self, length: int) -> None:
        """Go back to the first `length` tokens."""
        ...


class Rereading:
    """Every choice is read with its whole context; choices of one token share a reading."""

    def __init__(self, logits: Logits) -> None:
        self._logits = logits

    def score(self, questions: Sequence[Question]) -> Iterator[tuple[float, ...]]:
        for question in questions:
            read: dict[tuple[int, ...], NDArray[np.float32]] = {}
            scores = []
            for choice in question.choices:
                tokens = (*question.context, *choice[:-1])
                if tokens not in read:
                    read[tokens] = self._logits(tokens)
                scores.append(float(log_likelihoods(read[tokens][-len(choice) :], choice).sum()))
            yield tuple(scores)


class Continuing:
    """A question's choices go on from one reading of its context, and a context from what it shares with the last text."""

    def __init__(self, passage: Passage) -> None:
        self._passage = passage
        self._read: list[int] = []

    def score(self, questions: Sequence[Question]) -> Iterator[tuple[float, ...]]:
        for question in questions:
            after_context_1V = self._after(question.context)
            yield tuple(self._of(choice, question.context, after_context_1V) for choice in question.choices)

    def _after(self, context: Sequence[int]) -> NDArray[np.float32]:
        """Log-probabilities after the context, [1, V]; its last token is read even where all of it is in the cache."""
        shared = min(shared_tokens(self._read, context), len(context) - 1)
        return self._append(context, shared, len(context) - 1)

    def _of(self, choice: Sequence[int], context: Sequence[int], after_context_1V: NDArray[np.float32]) -> float:
        first = float(after_context_1V[0, choice[0]])
        if len(choice) == 1:
            return first
        rest_SV = self._append((*context, *choice[:-1]), len(context), len(context))
        return first + float(rest_SV[np.arange(len(choice) - 1), list(choice[1:])].sum())

    def _append(self, text: Sequence[int], shared: int, logits_from: int) -> NDArray[np.float32]:
        """Make `text` what has been read, of which `shared` tokens were; log-probabilities from the position on."""
        self._passage.rewind(shared)
        self._read = list(text[:shared])
        rows_SV = self._passage.run(text[shared:], logits_from - shared)
        self._read = list(text)
        return log_softmax(rows_SV)


def shared_tokens(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two texts begin with alike."""
    for index, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return index
    return min(len(one), len(other))


def log_likelihoods(logits_SV: NDArray[np.float32], tokens: Sequence[int]) -> NDArray[np.float32]:
    """Of each token under the logits of its own position, [S]."""
    picked: NDArray[np.float32] = log_softmax(logits_SV)[np.arange(len(tokens)), list(tokens)]
    return picked


def log_softmax(logits_SV: NDArray[np.float32]) -> NDArray[np.float32]:
    shifted = logits_SV - logits_SV.max(-1, keepdims=True)
    result: NDArray[np.float32] = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result
