"""What a package really does: speed, memory, quality, and how close it is to the float subnet it was made from.

The package is loaded from its own files in this fresh process. Time and memory are taken first, before torch is loaded
for the comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from components.data import load_evaluation
from components.evaluate import Logits, agreement, greedy_agreement, multiple_choice, perplexity
from edge_targets._device import facts
from edge_targets._device.bench import bench
from edge_targets._device.text import Text
from edge_targets._target import Target

GREEDY_QUESTION = "What is the capital of France?"
_GREEDY_TOKENS = 32
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class MeasureSettings:
    """Numbers of `params.yaml` that decide a measurement."""

    runs: int
    new_tokens: int
    agreement_windows: int


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
    question = text.chat([{"role": "user", "content": GREEDY_QUESTION}])
    answer = list(runner.generate(question, _GREEDY_TOKENS))
    figures = {
        **speed,
        "measured_on": "host",
        "answer": {"question": GREEDY_QUESTION, "text": text.decode(answer)},
        **quality(runner.logits, windows, questions, progress),
    }
    if checkpoint is not None:
        from components.quiet import quiet_libraries

        quiet_libraries()
        from components.reference import load_checkpoint, logits_of

        exact = logits_of(load_checkpoint(checkpoint))
        written = list(runner.generate(question, _GREEDY_TOKENS, to_the_end=True))
        figures["agreement"] = {
            **asdict(agreement(runner.logits, exact, windows[: settings.agreement_windows])),
            "greedy": greedy_agreement(exact, question, written),
        }
    return figures


def quality(
    logits: Logits, windows: Sequence[Sequence[int]], questions: Sequence[Any], progress: Progress
) -> dict[str, Any]:
    """Perplexity and accuracy of anything that answers logits, item by item."""
    read = perplexity(logits, windows, lambda done, total: progress("perplexity", done, total))
    answered = multiple_choice(logits, questions, lambda done, total: progress("questions", done, total))
    return {
        "perplexity": {"value": read.value, "nats": read.nats},
        "accuracy": {"value": answered.value, "interval": answered.interval, "correct": answered.correct},
    }
