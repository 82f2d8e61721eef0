"""Answers within a latency objective: an opened folder of levels, a score head, and what each way to answer was measured to give.

What a shape and a share of the prompt are worth is how likely the last quarter of held-out windows is after that share of the first
three. Questions would not tell: most are so short that nearly all of them stays at any share.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel

from components.evaluate import Question
from components.files import replace_text
from components.levels import Levels
from components.packed import Packed
from components.prompts import Decision, Objective, Operating, PromptSettings, ScoreHead, decide, shorten

HEAD_FILE, POINTS_FILE = "score_head.safetensors", "operating.json"
SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
PROMPT_TOKENS = 128


class Adaptive:
    """A folder of levels with its score head and operating points."""

    def __init__(self, folder: Path) -> None:
        self.levels = Levels(folder)
        self.head = _read_head(folder / HEAD_FILE, self.levels.model.config.hidden_size)
        self.points = tuple(Operating(**point) for point in json.loads((folder / POINTS_FILE).read_text())["points"])
        generation = json.loads((folder / "generation_config.json").read_text())
        ends = generation.get("eos_token_id", self.levels.model.config.eos_token_id)
        self._ends = {ends} if isinstance(ends, int) else set(ends or ())

    def decide(self, objective: Objective) -> Decision:
        """Which level and share of the prompt an objective gets."""
        return decide(self.points, objective)

    def answer(self, tokens: Sequence[int], point: Operating, max_new_tokens: int) -> Iterator[int]:
        """Greedy continuation of a prompt, as this point reads and runs it."""
        self.levels.activate(point.shape)
        prompt = shorten(self.head, self.levels.model.get_input_embeddings(), tokens, point.prompt_share)
        for token in _greedy(self.levels.model, prompt, max_new_tokens):
            if token in self._ends:
                return
            yield token


def save_adaptive(
    folder: Path,
    head: ScoreHead,
    settings: PromptSettings,
    windows: Sequence[Sequence[int]],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Add `head` and measured operating points to a folder of levels, the first of which is the full model."""
    tensors = {name: tensor.contiguous() for name, tensor in head.state_dict().items()}
    save_file(tensors, folder / HEAD_FILE, metadata={"settings": json.dumps(asdict(settings))})
    points = measure_points(Levels(folder), head, windows, progress)
    replace_text(folder / POINTS_FILE, json.dumps({"points": [asdict(point) for point in points]}, indent=1) + "\n")


def measure_points(
    levels: Levels,
    head: ScoreHead,
    windows: Sequence[Sequence[int]],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Operating, ...]:
    """Quality on held-out `windows` and latencies on this machine of every level and prompt share; the first level is the whole.

    Raises ValueError for windows that are too short to tell the shares apart.
    """
    embedding = levels.model.get_input_embeddings()
    shortened = {share: [_after_share(head, embedding, window, share) for window in windows] for share in SHARES}
    whole: tuple[float, float] | None = None
    points = []
    for index, name in enumerate(levels.cuts):
        levels.activate(name)
        tpot = _seconds_a_token(levels.model)
        for number, share in enumerate(SHARES):
            ttft = _seconds_of_prefill(levels.model, math.ceil(share * PROMPT_TOKENS))
            whole = whole or (ttft, tpot)
            quality = _likelihood(levels.model, shortened[share])
            points.append(Operating(share, name, ttft / whole[0], tpot / whole[1], quality))
            progress(index * len(SHARES) + number + 1, len(levels.cuts) * len(SHARES))
    return tuple(points)


def _after_share(head: ScoreHead, embedding: nn.Module, window: Sequence[int], share: float) -> Question:
    """How a window goes on, after a share of its first three quarters: a question of one choice."""
    asked = len(window) * 3 // 4
    kept, rest = shorten(head, embedding, window[:asked], share), tuple(window[asked:])
    if len(kept) > math.ceil(share * asked):
        raise ValueError(
            f"{share:.0%} of a prompt of {asked} tokens would be {math.ceil(share * asked)}, and {len(kept)} always stay: what a "
            f"share costs is measured on longer windows than {len(window)} tokens, which `window_tokens` in params.yaml says"
        )
    return Question("text", tuple(kept), (rest,), (len(rest),), 0)


def _likelihood(model: PreTrainedModel, questions: Sequence[Question]) -> float:
    """The mean log-likelihood of their choices, nats a token."""
    scores = Packed(model).score(questions)
    return statistics.fmean(
        likely / len(question.choices[0]) for question, (likely,) in zip(questions, scores, strict=True)
    )


def _read_head(path: Path, hidden: int) -> ScoreHead:
    with safe_open(path, "pt") as file:
        settings: Mapping[str, Any] = json.loads(file.metadata()["settings"])
        head = ScoreHead(hidden, PromptSettings(**settings))
        head.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    return head.eval().requires_grad_(False)


@torch.no_grad()
def _greedy(model: Any, prompt: Sequence[int], max_new_tokens: int) -> Iterator[int]:
    tokens, cache = torch.tensor([list(prompt)]), None
    for _ in range(max_new_tokens):
        outputs = model(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache = outputs.past_key_values
        tokens = outputs.logits[:, -1].argmax(-1, keepdim=True)
        yield int(tokens)


def _seconds_of_prefill(model: Any, tokens: int, runs: int = 5) -> float:
    """The median time to the first token after `tokens` of a prompt."""
    samples = []
    for _ in range(runs + 1):
        started = time.perf_counter()
        next(_greedy(model, [5] * tokens, 1))
        samples.append(time.perf_counter() - started)
    return statistics.median(samples[1:])


def _seconds_a_token(model: Any, tokens: int = 16, runs: int = 3) -> float:
    """The median time per token after the first."""
    samples = []
    for _ in range(runs):
        stamps = [time.perf_counter() for _ in _greedy(model, [5] * PROMPT_TOKENS, tokens + 1)]
        samples += [after - before for before, after in pairwise(stamps)]
    return statistics.median(samples)
