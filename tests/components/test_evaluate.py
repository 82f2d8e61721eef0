import math

import numpy as np
import pytest
import torch
from fixtures.questions import make_questions
from fixtures.tiny import FAMILIES, make_model

from components.evaluate import Accuracy, Answer, Question, agreement, greedy_agreement, multiple_choice, perplexity
from components.likelihood import Continuing
from components.mixed import MixedConfig, MixedForCausalLM
from components.packed import Packed
from components.reference import logits_of
from components.selection import LayerCut

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


class Passage:
    """A passage that keeps tokens where others keep a cache, and counts what it is given to read."""

    def __init__(self, model) -> None:
        self._logits, self._text = logits_of(model), []
        self.tokens_read = 0

    def run(self, tokens, logits_from):
        self._text += tokens
        self.tokens_read += len(tokens)
        return self._logits(self._text)[len(self._text) - len(tokens) + logits_from :]

    def rewind(self, length):
        assert 0 <= length <= len(self._text)
        del self._text[length:]


def assert_same_answers(given: Accuracy, wanted: Accuracy, within: float = 1e-4) -> None:
    assert given.correct == wanted.correct
    for one, other in zip(given.answers, wanted.answers, strict=True):
        assert one.task == other.task
        assert one.log_likelihoods == pytest.approx(other.log_likelihoods, abs=within)


def test_continuing_from_what_is_shared_gives_what_reading_every_choice_anew_gives() -> None:
    model, questions = make_model(), make_questions()
    assert_same_answers(
        multiple_choice(Continuing(Passage(model)), questions), multiple_choice(logits_of(model), questions)
    )


def test_a_context_is_read_once_for_all_choices_and_what_contexts_share_once_for_all_questions() -> None:
    passage = Passage(make_model())
    shared = tuple(range(5, 25))
    questions = [Question("made", (*shared, last), ((7, 8), (9, 9), (6,)), (1, 1, 1), 0) for last in (30, 31, 32)]
    multiple_choice(Continuing(passage), questions)
    assert passage.tokens_read == len(shared) + len(questions) * (1 + 2)


def test_the_same_question_twice_has_the_same_answer() -> None:
    questions = make_questions(4)
    scorer = Continuing(Passage(make_model()))
    twice = multiple_choice(scorer, [question for question in questions for _ in range(2)])
    for one, again in zip(twice.answers[::2], twice.answers[1::2], strict=True):
        assert one == again


@pytest.mark.parametrize("tokens", [1, 40, 512], ids=["one at a time", "a few at once", "all at once"])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_questions_have_the_likelihoods_of_reading_every_choice_anew(family: str, tokens: int) -> None:
    model, questions = make_model(family), make_questions()
    assert_same_answers(multiple_choice(Packed(model, tokens), questions), multiple_choice(logits_of(model), questions))


def test_a_model_whose_layers_differ_is_packed_like_any_other() -> None:
    cuts = (LayerCut(0, True, 128), LayerCut(1, True, 0), LayerCut(2, False, 64), LayerCut(3, True, 96))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MixedForCausalLM(MixedConfig.of(make_model().config, "LlamaForCausalLM", cuts)).eval()
    questions = make_questions()
    assert_same_answers(multiple_choice(Packed(model), questions), multiple_choice(logits_of(model), questions))


def test_answers_keep_each_choice_s_likelihood_and_each_task_its_own_accuracy() -> None:
    model, questions = make_model(), make_questions()
    answered = multiple_choice(logits_of(model), questions)
    for question, answer in zip(questions, answered.answers, strict=True):
        per_character = [one / length for one, length in zip(answer.log_likelihoods, question.lengths, strict=True)]
        assert answer.correct == (per_character.index(max(per_character)) == question.gold)
    assert list(answered.by_task) == ["one", "other"]
    for task, part in answered.by_task.items():
        assert part.correct == tuple(slow_answer(model, one) == one.gold for one in questions if one.task == task)


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


def made_accuracy(*correct: bool) -> Accuracy:
    return Accuracy(tuple(Answer("made", one, ()) for one in correct))


def test_the_interval_holds_the_value_and_narrows_with_more_questions() -> None:
    few, many = made_accuracy(*(True, False) * 10), made_accuracy(*(True, False) * 1000)
    assert few.interval[0] < 0.5 < few.interval[1]
    assert many.interval[1] - many.interval[0] < few.interval[1] - few.interval[0]


def test_accuracy_of_no_questions_is_refused() -> None:
    with pytest.raises(ValueError, match="of at least 1 question, got none"):
        multiple_choice(logits_of(make_model()), [])


def test_a_question_without_an_answer_or_without_text_is_refused() -> None:
    with pytest.raises(ValueError, match="must be one of its 2 choices, got 2"):
        Question("made", (5,), ((6,), (7,)), (1, 1), 2)
    with pytest.raises(ValueError, match="have at least 1 token"):
        Question("made", (), ((6,), (7,)), (1, 1), 1)
    with pytest.raises(ValueError, match="have at least 1 token"):
        Question("made", (5,), ((6,), ()), (1, 1), 1)
