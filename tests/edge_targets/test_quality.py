import json

import pytest
from fixtures.questions import make_questions
from fixtures.tiny import make_model

from components.evaluate import multiple_choice
from components.packed import Packed
from components.reference import logits_of
from edge_targets._measure import quality

WINDOWS = [[5, 6, 7, 8, 9], [9, 8, 7, 6, 5]]


def test_figures_hold_what_a_later_run_is_compared_with_question_by_question() -> None:
    model, questions = make_model(), make_questions()
    said: list[str] = []
    figures = quality(logits_of(model), Packed(model), WINDOWS, questions, lambda what, done, total: said.append(what))
    kept = json.loads(json.dumps(figures))["accuracy"]
    plain = multiple_choice(logits_of(model), questions)
    assert kept["correct"] == list(plain.correct)
    assert kept["value"] == plain.value
    assert kept["tasks"] == [question.task for question in questions]
    for given, answer in zip(kept["log_likelihoods"], plain.answers, strict=True):
        assert given == pytest.approx(answer.log_likelihoods, abs=2e-4)
    for task, part in plain.by_task.items():
        assert kept["by_task"][task] == {
            "value": part.value,
            "interval": list(part.interval),
            "questions": len(part.answers),
        }
    assert said == ["perplexity"] * len(WINDOWS) + ["questions"] * len(questions)
