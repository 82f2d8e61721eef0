"""How likely a torch model finds each choice, with many questions in one forward and every shared token in it once.

A forward is one row of tokens. A text, which is a context and a choice but for its last token, begins with what it shares with
the text before it and appends only the rest; a mask lets a token see what comes before it in its own text and nothing of the
others, and positions count along the text. Nothing is padded, nothing that neighbours share is read twice, and the weights,
which a short text is mostly waiting for, are read once for all. A model's sliding window is not applied: no question is as
long as one.

Legend: T tokens of a forward, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from components.evaluate import Question
from components.likelihood import shared_tokens

_TOKENS = 512
"""Of one forward: attention and the mask grow with its square, and with half of it the weights are read too often."""


class Packed:
    """A model's `likelihood.Scorer`; questions that begin alike are best neighbours."""

    def __init__(self, model: PreTrainedModel, tokens: int = _TOKENS) -> None:
        self._model, self._tokens = model, tokens

    def score(self, questions: Sequence[Question]) -> Iterator[tuple[float, ...]]:
        row, held = _Row(), list[Question]()
        for question in questions:
            if held and len(row.tokens) + row.new_tokens(question) > self._tokens:
                yield from self._read(row, held)
                row, held = _Row(), []
            row.add(question)
            held.append(question)
        if held:
            yield from self._read(row, held)

    @torch.no_grad()
    def _read(self, row: _Row, questions: Sequence[Question]) -> list[tuple[float, ...]]:
        hidden_T = self._model.model(
            input_ids=torch.tensor([row.tokens], device=self._model.device),
            position_ids=torch.tensor([row.positions], device=self._model.device),
            attention_mask=row.mask(self._model.dtype).to(self._model.device),
            use_cache=False,
        ).last_hidden_state[0]
        used = sorted({place for places in row.before for place in places})
        log_TV = self._model.lm_head(hidden_T[used]).float().log_softmax(-1)
        index = {place: number for number, place in enumerate(used)}
        rows = [index[place] for places in row.before for place in places]
        choices = [choice for question in questions for choice in question.choices]
        picked = log_TV[rows, [token for choice in choices for token in choice]]
        likely = iter([float(part.sum()) for part in picked.split([len(choice) for choice in choices])])
        return [tuple(next(likely) for _ in question.choices) for question in questions]


class _Row:
    """The tokens of one forward, and where each text has its own among them."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.positions: list[int] = []
        self.before: list[list[int]] = []
        """For each choice, the place of the token before each of its tokens."""
        self._seen: list[tuple[list[int], int]] = []
        """For each piece that was appended, the places of its text, and how many of these are of other pieces."""
        self._text: tuple[int, ...] = ()
        self._places: list[int] = []

    def new_tokens(self, question: Question) -> int:
        """How many the question adds at most."""
        shared = shared_tokens(self._text, question.context)
        return len(question.context) - shared + sum(len(choice) - 1 for choice in question.choices)

    def add(self, question: Question) -> None:
        for choice in question.choices:
            self._append((*question.context, *choice[:-1]))
            self.before.append(self._places[len(question.context) - 1 :])

    def _append(self, text: tuple[int, ...]) -> None:
        shared = shared_tokens(self._text, text)
        added = len(text) - shared
        self._text, self._places = text, [*self._places[:shared], *range(len(self.tokens), len(self.tokens) + added)]
        self.tokens += text[shared:]
        self.positions += range(shared, len(text))
        if added:
            self._seen.append((self._places, shared))

    def mask(self, dtype: torch.dtype) -> Tensor:
        """What is added to attention scores, [1, 1, T, T]: 0 where a token sees another, else as little as there is."""
        unseen = torch.finfo(dtype).min
        mask_TT = torch.full((len(self.tokens), len(self.tokens)), unseen, dtype=dtype)
        for places, shared in self._seen:
            start, end = places[shared], places[-1] + 1
            mask_TT[start:end, places[:shared]] = 0
            mask_TT[start:end, start:end] = torch.full((end - start, end - start), unseen, dtype=dtype).triu(1)
        return mask_TT[None, None]
