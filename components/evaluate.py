"""Quality of anything that answers logits: the float model, or an exported file in its own runtime. No torch.

Legend: S positions, V vocabulary.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from components.likelihood import Rereading, Scorer, log_likelihoods, log_softmax

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
        if not self.context or not all(self.choices) or min(self.lengths) < 1:
            raise ValueError("a question's context and each of its choices have at least 1 token, got one without")

    def after(self, tokens: Sequence[int]) -> Question:
        """The same question with `tokens` before its context."""
        return replace(self, context=(*tokens, *self.context))


@dataclass(frozen=True)
class Perplexity:
    """Mean negative log-likelihood in nats of each window of text."""

    nats: tuple[float, ...]

    @property
    def value(self) -> float:
        try:
            return math.exp(sum(self.nats) / len(self.nats))
        except OverflowError:
            return math.inf


@dataclass(frozen=True)
class Answer:
    """What a model made of one question."""

    task: str
    correct: bool
    log_likelihoods: tuple[float, ...]
    """Of each choice, in nats, not divided by its length."""


@dataclass(frozen=True)
class Accuracy:
    """How each question was answered, in the questions' order."""

    answers: tuple[Answer, ...]

    def __post_init__(self) -> None:
        if not self.answers:
            raise ValueError("accuracy is of at least 1 question, got none; `questions` in params.yaml says how many")

    @property
    def correct(self) -> tuple[bool, ...]:
        return tuple(answer.correct for answer in self.answers)

    @property
    def value(self) -> float:
        return sum(self.correct) / len(self.correct)

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(sum(self.correct), len(self.correct))

    @property
    def by_task(self) -> dict[str, Accuracy]:
        """Of each task's questions alone, in the order in which tasks first occur."""
        tasks = dict.fromkeys(answer.task for answer in self.answers)
        return {task: Accuracy(tuple(one for one in self.answers if one.task == task)) for task in tasks}


def perplexity(
    logits: Logits, windows: Sequence[Sequence[int]], progress: Progress = lambda done, total: None
) -> Perplexity:
    """Each window is read from an empty cache and scored from its second token on."""
    nats = []
    for index, window in enumerate(windows):
        values_SV = logits(window)[:-1]
        nats.append(-float(log_likelihoods(values_SV, window[1:]).mean()))
        progress(index + 1, len(windows))
    return Perplexity(tuple(nats))


def multiple_choice(
    model: Logits | Scorer, questions: Sequence[Question], progress: Progress = lambda done, total: None
) -> Accuracy:
    """Answer each question with the choice of the largest log-likelihood a character.

    Questions are read in the order of their contexts, so that those that begin alike are neighbours, which a scorer may use.
    """
    scorer = model if isinstance(model, Scorer) else Rereading(model)
    order = sorted(range(len(questions)), key=lambda index: questions[index].context)
    answers: dict[int, Answer] = {}
    for index, likely in zip(order, scorer.score([questions[index] for index in order]), strict=True):
        question = questions[index]
        chosen = int(np.argmax(np.array(likely) / question.lengths))
        answers[index] = Answer(question.task, chosen == question.gold, likely)
        progress(len(answers), len(questions))
    return Accuracy(tuple(answers[index] for index in range(len(questions))))


def asking_order(questions: int) -> tuple[int, ...]:
    """The order in which a part of the questions is asked first: mixed, so that every task has its share in any part."""
    return tuple(sorted(range(questions), key=lambda index: hashlib.sha256(str(index).encode()).digest()))


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
        given_SV, wanted_SV = log_softmax(given_SV), log_softmax(wanted_SV)
        kl += float((np.exp(wanted_SV) * (wanted_SV - given_SV)).sum())
        rows = np.arange(len(window) - 1)
        nats += float((wanted_SV - given_SV)[rows, list(window[1:])].sum())
        positions += len(window)
    return Agreement(same / positions, kl / positions, math.exp(nats / (positions - len(windows))))


def greedy_agreement(reference: Logits, prompt: Sequence[int], answer: Sequence[int]) -> float:
    """Share of an artifact's greedy answer that the float subnet would have written too, after the same tokens."""
    wanted_SV = reference([*prompt, *answer])[len(prompt) - 1 : -1]
    return float((wanted_SV.argmax(-1) == np.array(answer)).mean())


def wilson(right: int, asked: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson, Journal of the American Statistical Association 22, 1927)."""
    z, share = 1.96, right / asked
    middle = (share + z * z / (2 * asked)) / (1 + z * z / asked)
    half = z / (1 + z * z / asked) * math.sqrt(share * (1 - share) / asked + z * z / (4 * asked * asked))
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return min(low, share), max(high, share)  # rounding would leave out a share of 0 or 1
