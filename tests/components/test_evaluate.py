import math

import numpy as np
import pytest
import torch
from fixtures.tiny import make_model

from components.evaluate import Accuracy, Question, agreement, greedy_agreement, multiple_choice, perplexity
from components.reference import logits_of

TOKENS = torch.randint(2, 96, (3, 20), generator=torch.Generator().manual_seed(0))


def test_perplexity_is_what_torch_computes_from_its_own_loss() -> None:
    model = make_model()
    with torch.no_grad():
        losses = [float(model(row[None], labels=row[None]).loss) for row in TOKENS]
    assert perplexity(logits_of(model), TOKENS.tolist()).value == pytest.approx(math.exp(sum(losses) / 3), rel=1e-4)


def slow_answer(model, question: Question) -> int:
    scores = []
    for choice, length in zip(question.choices, question.lengths, strict=True):
        tokens = torch.tensor([[*question.context, *choice]])
        with torch.no_grad():
            log_probabilities = model(tokens).logits[0].log_softmax(-1)
        start = len(question.context) - 1
        scores.append(sum(float(log_probabilities[start + i, token]) for i, token in enumerate(choice)) / length)
    return max(range(len(scores)), key=scores.__getitem__)


def test_a_question_is_answered_as_by_scoring_each_choice_alone() -> None:
    model, generator = make_model(), np.random.default_rng(0)
    for _ in range(20):
        choices = tuple(tuple(generator.integers(2, 96, generator.integers(1, 4)).tolist()) for _ in range(4))
        context = tuple(generator.integers(2, 96, 6).tolist())
        lengths = tuple(generator.integers(1, 9, 4).tolist())
        question = Question("made", context, choices, lengths, 0)
        answered = multiple_choice(logits_of(model), [question]).correct[0]
        assert answered == (slow_answer(model, question) == 0)


def test_choices_of_one_token_are_scored_by_one_reading() -> None:
    reads: list[int] = []

    def counted(tokens):
        reads.append(len(tokens))
        return logits_of(make_model())(tokens)

    multiple_choice(counted, [Question("made", (5, 6, 7), ((8,), (9,), (10,)), (1, 1, 1), 0)])
    assert reads == [3]


def test_a_model_agrees_with_itself_wholly_and_with_another_less() -> None:
    one, other = logits_of(make_model(seed=0)), logits_of(make_model(seed=1))
    same = agreement(one, one, TOKENS.tolist())
    assert same.top_1 == 1
    assert same.kl == pytest.approx(0, abs=1e-6)
    assert same.perplexity_ratio == pytest.approx(1)
    far = agreement(other, one, TOKENS.tolist())
    assert far.kl > 0.1
    ratio = perplexity(other, TOKENS.tolist()).value / perplexity(one, TOKENS.tolist()).value
    assert far.perplexity_ratio == pytest.approx(ratio, rel=1e-5)


def test_a_greedy_answer_is_compared_token_by_token_after_what_was_really_written() -> None:
    logits, written = logits_of(make_model()), [5, 6, 7]
    for _ in range(6):
        written.append(int(logits(written)[-1].argmax()))
    assert greedy_agreement(logits, written[:3], written[3:]) == 1
    other = [*written[3:-1], (written[-1] + 1) % 96]
    assert greedy_agreement(logits, written[:3], other) == pytest.approx(5 / 6)


def test_the_interval_holds_the_value_and_narrows_with_more_questions() -> None:
    few, many = Accuracy((True, False) * 10), Accuracy((True, False) * 1000)
    assert few.interval[0] < 0.5 < few.interval[1]
    assert many.interval[1] - many.interval[0] < few.interval[1] - few.interval[0]


def test_a_gold_answer_outside_the_choices_is_refused() -> None:
    with pytest.raises(ValueError, match="must be one of its 2 choices, got 2"):
        Question("made", (5,), ((6,), (7,)), (1, 1), 2)
