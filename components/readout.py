"""What a metric reads off the last hidden states: how far a student's answers are from the teacher's, or from the truth.

Logits are read at every `stride`-th position only, since the head of a small model costs as much as several of its
layers. Less is better in all of them.

Legend: B sequences, T positions, S sampled positions, H hidden size, V vocabulary, G groups (sequences, or questions).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from components.evaluate import Question

TextMetric = Literal["kl", "soft_cross_entropy", "cross_entropy"]
MetricName = Literal[TextMetric, "choice_error"]


class Readout(Protocol):
    """One number a group; groups are read independently, so that some can decide for all."""

    groups: int

    def learn(self, model: PreTrainedModel, hidden_BTH: Tensor) -> None:
        """Take the full model's last hidden states as the teacher's, before anything else is read."""
        ...

    def rows(self, groups: slice) -> slice:
        """The sequences that these groups are made of."""
        ...

    def read(self, model: PreTrainedModel, hidden_BTH: Tensor, groups: slice) -> Tensor:
        """Values [G] of the last hidden states of `rows(groups)`."""
        ...


class _OfSequences:
    """A readout whose groups are the sequences."""

    def __init__(self, tokens_BT: Tensor, stride: int) -> None:
        if tokens_BT.shape[1] < stride:
            raise ValueError(f"sequences of {tokens_BT.shape[1]} tokens have no {stride}th position; use longer ones")
        self.groups, self._stride = len(tokens_BT), stride

    def rows(self, groups: slice) -> slice:
        return groups

    def _log_probabilities(self, model: PreTrainedModel, hidden_BTH: Tensor, end: int | None = None) -> Tensor:
        sampled_BSH = model.model.norm(hidden_BTH[:, self._stride - 1 : end : self._stride])
        log_BSV: Tensor = model.lm_head(sampled_BSH).float().log_softmax(-1)
        return log_BSV


class Divergence(_OfSequences):
    """KL(teacher || student) in nats a token, or the soft cross-entropy, which is the teacher's entropy more."""

    def __init__(self, tokens_BT: Tensor, stride: int, *, with_entropy: bool = False) -> None:
        super().__init__(tokens_BT, stride)
        self._with_entropy = with_entropy

    def learn(self, model: PreTrainedModel, hidden_BTH: Tensor) -> None:
        self._teacher_BSV = self._log_probabilities(model, hidden_BTH)

    def read(self, model: PreTrainedModel, hidden_BTH: Tensor, groups: slice) -> Tensor:
        teacher_BSV, student_BSV = self._teacher_BSV[groups], self._log_probabilities(model, hidden_BTH)
        if self._with_entropy:
            return -(teacher_BSV.exp() * student_BSV).sum(-1).mean(-1)
        return F.kl_div(student_BSV, teacher_BSV, log_target=True, reduction="none").sum(-1).mean(-1)


class CrossEntropy(_OfSequences):
    """Of the text itself, nats a token; no teacher."""

    def __init__(self, tokens_BT: Tensor, stride: int) -> None:
        super().__init__(tokens_BT, stride)
        self._next_BS = tokens_BT[:, stride::stride]

    def learn(self, model: PreTrainedModel, hidden_BTH: Tensor) -> None:
        pass

    def read(self, model: PreTrainedModel, hidden_BTH: Tensor, groups: slice) -> Tensor:
        student_BSV = self._log_probabilities(model, hidden_BTH, end=-1)
        chosen: Tensor = student_BSV.gather(-1, self._next_BS[groups, :, None].to(student_BSV.device))
        return -chosen.squeeze(-1).mean(-1)


class ChoiceError:
    """Share of multiple-choice questions answered wrongly (AmoebaLLM, section 4.1); near chance for models under 3B.

    A question's choices are consecutive sequences, padded at their ends; the answer is what `evaluate.accuracy` takes: the
    choice of highest log-likelihood a character.
    """

    def __init__(self, questions: Sequence[Question]) -> None:
        self._questions = questions
        self.groups = len(questions)
        self._starts = [0, *accumulate(len(question.choices) for question in questions)]
        rows = [[*question.context, *choice] for question in questions for choice in question.choices]
        longest = max(map(len, rows))
        self.tokens_BT = torch.tensor([row + [0] * (longest - len(row)) for row in rows])

    def learn(self, model: PreTrainedModel, hidden_BTH: Tensor) -> None:
        pass

    def rows(self, groups: slice) -> slice:
        first, last, _ = groups.indices(self.groups)
        return slice(self._starts[first], self._starts[last])

    def read(self, model: PreTrainedModel, hidden_BTH: Tensor, groups: slice) -> Tensor:
        first, last, _ = groups.indices(self.groups)
        wrong = []
        for question, start in zip(self._questions[first:last], self._starts[first:last], strict=True):
            scores: list[float] = []
            for choice, characters in zip(question.choices, question.lengths, strict=True):
                at = slice(len(question.context) - 1, len(question.context) + len(choice) - 1)
                hidden_SH = hidden_BTH[start - self._starts[first] + len(scores), at]
                log_SV = model.lm_head(model.model.norm(hidden_SH)).float().log_softmax(-1)
                scores.append(
                    float(log_SV.gather(-1, torch.tensor(choice, device=log_SV.device)[:, None]).sum()) / characters
                )
            wrong.append(float(scores.index(max(scores)) != question.gold))
        return torch.tensor(wrong)


READOUTS: dict[TextMetric, Callable[[Tensor, int], Readout]] = {
    "kl": Divergence,
    "soft_cross_entropy": lambda tokens_BT, stride: Divergence(tokens_BT, stride, with_entropy=True),
    "cross_entropy": CrossEntropy,
}


def readout_of(
    metric: MetricName, calibration_BT: Tensor, stride: int, questions: Sequence[Question]
) -> tuple[Readout, Tensor]:
    """The readout and the sequences that it reads [B, T]; raises ValueError where it needs questions and there are none."""
    if metric != "choice_error":
        return READOUTS[metric](calibration_BT, stride), calibration_BT
    if not questions:
        raise ValueError(
            "selection.metric: choice_error needs questions that nothing is measured on; name a task and a number in "
            "data.selection_questions of params.yaml"
        )
    of_questions = ChoiceError(questions)
    return of_questions, of_questions.tokens_BT
