"""Quality of anything that answers logits: the float model, or an exported file in its own runtime. No torch.

Legend: S positions, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Logits = Callable[[Sequence[int]], NDArray[np.float32]]
"""Token ids -> next-token logits after every position, [S, V]."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Question:
    """One multiple-choice item as token ids: `context` and, for each choice, how it goes on."""

    task: str
    context: tuple[int, ...]
    choices: tuple[tuple[int, ...], ...]
    lengths: tuple[int, ...]
    """Characters of each choice, which its log-likelihood is divided by."""
    gold: int

    def __post_init__(self) -> None:
        if not 0 <= self.gold < len(self.choices) or len(self.choices) != len(self.lengths):
            raise ValueError(f"a question's gold must be one of its {len(self.choices)} choices, got {self.gold}")


@dataclass(frozen=True)
class Perplexity:
    """Mean negative log-likelihood in nats of each window of text."""

    nats: tuple[float, ...]

    @property
    def value(self) -> float:
        return math.exp(sum(self.nats) / len(self.nats))


@dataclass(frozen=True)
class Accuracy:
    """Whether each question was answered rightly, in the questions' order."""

    correct: tuple[bool, ...]

    @property
    def value(self) -> float:
        return sum(self.correct) / len(self.correct)

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval (1927)."""
        z, n, p = 1.96, len(self.correct), self.value
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return middle - half, middle + half


def perplexity(
    logits: Logits, windows: Sequence[Sequence[int]], progress: Progress = lambda done, total: None
) -> Perplexity:
    """Each window is read from an empty cache and scored from its second token on."""
    nats = []
    for index, window in enumerate(windows):
        values_SV = logits(window)[:-1]
        nats.append(-float(_log_likelihoods(values_SV, window[1:]).mean()))
        progress(index + 1, len(windows))
    return Perplexity(tuple(nats))


def multiple_choice(
    logits: Logits, questions: Sequence[Question], progress: Progress = lambda done, total: None
) -> Accuracy:
    """Answer each question with the choice of the largest log-likelihood a character."""
    correct = []
    for index, question in enumerate(questions):
        read: dict[tuple[int, ...], NDArray[np.float32]] = {}
        scores = []
        for choice, length in zip(question.choices, question.lengths, strict=True):
            # All choices of a single token are scored by one reading of the context.
            tokens = (*question.context, *choice[:-1])
            if tokens not in read:
                read[tokens] = logits(tokens)
            scores.append(float(_log_likelihoods(read[tokens][-len(choice) :], choice).sum()) / length)
        correct.append(int(np.argmax(scores)) == question.gold)
        progress(index + 1, len(questions))
    return Accuracy(tuple(correct))


@dataclass(frozen=True)
class Agreement:
    """How close an artifact's logits are to the float subnet's on the same text."""

    top_1: float
    kl: float
    """Mean KL(float || artifact), nats a token."""
    perplexity_ratio: float
    """The artifact's perplexity over the float subnet's."""


def agreement(artifact: Logits, reference: Logits, windows: Sequence[Sequence[int]]) -> Agreement:
    same, kl, nats, positions = 0, 0.0, 0.0, 0
    for window in windows:
        given_SV, wanted_SV = artifact(window), reference(window)
        same += int((given_SV.argmax(-1) == wanted_SV.argmax(-1)).sum())
        given_SV, wanted_SV = _log_softmax(given_SV), _log_softmax(wanted_SV)
        kl += float((np.exp(wanted_SV) * (wanted_SV - given_SV)).sum())
        rows = np.arange(len(window) - 1)
        nats += float((wanted_SV - given_SV)[rows, list(window[1:])].sum())
        positions += len(window)
    return Agreement(same / positions, kl / positions, math.exp(nats / (positions - len(windows))))


def greedy_agreement(reference: Logits, prompt: Sequence[int], answer: Sequence[int]) -> float:
    """Share of an artifact's greedy answer that the float subnet would have written too, after the same tokens."""
    wanted_SV = reference([*prompt, *answer])[len(prompt) - 1 : -1]
    return float((wanted_SV.argmax(-1) == np.array(answer)).mean())


def _log_likelihoods(logits_SV: NDArray[np.float32], tokens: Sequence[int]) -> NDArray[np.float32]:
    picked: NDArray[np.float32] = _log_softmax(logits_SV)[np.arange(len(tokens)), list(tokens)]
    return picked


def _log_softmax(logits_SV: NDArray[np.float32]) -> NDArray[np.float32]:
    shifted = logits_SV - logits_SV.max(-1, keepdims=True)
    result: NDArray[np.float32] = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result
