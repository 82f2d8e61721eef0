"""What a package really does: speed, memory, quality, and how close it is to the float subnet it was made from.

The package is loaded from its own files in this fresh process. Time and memory are taken first, before torch is loaded
for the comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from components.data import evaluation_facts, load_evaluation
from components.evaluate import (
    Accuracy,
    Logits,
    Question,
    agreement,
    asking_order,
    greedy_agreement,
    multiple_choice,
    perplexity,
)
from components.likelihood import Continuing, Scorer
from edge_targets._device import facts
from edge_targets._device.bench import bench
from edge_targets._device.text import Text
from edge_targets._half import largest_activation
from edge_targets._target import Target

GREEDY_QUESTION = "What is the capital of France?"
_TODAY = date(2026, 1, 1)
"""In a chat template that names the day: agreement is of the same question on any."""
_GREEDY_TOKENS = 32
_DECIMALS = 4
"""Of a log-likelihood that is kept: artifacts differ by more, runs of one by less."""
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class MeasureSettings:
    """Numbers of `params.yaml` that decide a measurement."""

    runs: int
    new_tokens: int
    agreement_windows: int

    def __post_init__(self) -> None:
        if self.agreement_windows < 1:
            raise ValueError(f"agreement_windows is {self.agreement_windows}; closeness is told from at least 1 window")


def measure(
    target: Target,
    package: Path,
    evaluation: Path,
    checkpoint: Path | None,
    settings: MeasureSettings,
    threads: int,
    progress: Progress = lambda what, done, total: None,
) -> dict[str, Any]:
    """Every figure with its raw samples, as JSON values; `agreement` only where the float checkpoint is given."""
    windows_WT, questions = load_evaluation(evaluation)
    windows = windows_WT.tolist()
    runner, text = facts.load(package, threads), Text(package)
    speed = bench(
        package,
        runner,
        threads,
        settings.runs,
        settings.new_tokens,
        lambda done, total: progress("latency", done, total),
    )
    question = text.chat([{"role": "user", "content": GREEDY_QUESTION}], _TODAY)
    answer = list(runner.generate(question, _GREEDY_TOKENS))
    figures = {
        **speed,
        "measured_on": "host",
        "evaluation": evaluation_facts(evaluation),
        "answer": {"question": GREEDY_QUESTION, "text": text.decode(answer)},
        **quality(runner.logits, Continuing(runner.passage()), windows, questions, progress),
    }
    if checkpoint is not None:
        from components.quiet import quiet_libraries

        quiet_libraries()
        from components.reference import load_checkpoint, logits_of

        model = load_checkpoint(checkpoint)
        exact = logits_of(model)
        written = list(runner.generate(question, _GREEDY_TOKENS, to_the_end=True))
        with largest_activation(model) as largest:
            figures["agreement"] = {
                **asdict(agreement(runner.logits, exact, windows[: settings.agreement_windows])),
                "greedy": greedy_agreement(exact, question, written),
                "largest_activation": largest(),
            }
    return figures


def quality_part(
    package: Path, evaluation: Path, first: int, last: int, threads: int, progress: Progress
) -> dict[str, Any]:
    """Answers to the questions from the `first` asked to before the `last`, and of the first part all text, item by item."""
    windows_WT, questions = load_evaluation(evaluation)
    runner = facts.load(package, threads)
    asked = [questions[index] for index in asking_order(len(questions))[first:last]]
    windows, scorer = windows_WT.tolist() if first == 0 else [], Continuing(runner.passage())
    read = perplexity(runner.logits, windows, lambda done, total: progress("perplexity", done, total))
    answered = multiple_choice(scorer, asked, lambda done, total: progress("questions", done, total))
    return {"nats": read.nats, "correct": answered.correct, "questions": len(questions)}


def quality(
    logits: Logits,
    scorer: Scorer,
    windows: Sequence[Sequence[int]],
    questions: Sequence[Question],
    progress: Progress,
) -> dict[str, Any]:
    """Perplexity and accuracy of a model that answers logits and scores questions, item by item."""
    read = perplexity(logits, windows, lambda done, total: progress("perplexity", done, total))
    answered = multiple_choice(scorer, questions, lambda done, total: progress("questions", done, total))
    return {"perplexity": {"value": read.value, "nats": read.nats}, "accuracy": accuracy_figures(answered)}


def accuracy_figures(answered: Accuracy) -> dict[str, Any]:
    """As JSON values. `correct`, `tasks` and `log_likelihoods` have an entry a question, in the questions' order."""
    return {
        "value": answered.value,
        "interval": answered.interval,
        "by_task": {
            task: {"value": part.value, "interval": part.interval, "questions": len(part.answers)}
            for task, part in answered.by_task.items()
        },
        "correct": answered.correct,
        "tasks": [answer.task for answer in answered.answers],
        "log_likelihoods": [[round(one, _DECIMALS) for one in answer.log_likelihoods] for answer in answered.answers],
    }
