"""What a shorter prompt costs: tokens kept by the score head against random ones and the prompt's end, at equal share.

    python -m benchmarks.prompts

Text: a window's first three quarters are the prompt, the perplexity is of the rest. Questions: the second half, which no
operating point was measured on. Every way keeps a prompt's first token and its last eight. Random is the mean of five draws.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from transformers import PreTrainedModel

from benchmarks import _record
from benchmarks._workspace import Workspace
from components.evaluate import Logits, Question, multiple_choice
from components.progress import progress, say
from components.prompts import PromptSettings, ScoreHead, keep_best, shorten, train_score_head
from components.reference import logits_of
from components.supernet import Supernet

SHARES = (0.9, 0.8, 0.7, 0.6, 0.5)
DRAWS = 5
_AT_ONCE = 8

Shorten = Callable[[Sequence[int], float], list[int]]


def ways(head: ScoreHead, embedding: torch.nn.Module) -> dict[str, list[Shorten]]:
    """By name; one for each draw where there is chance."""

    def at_random(seed: int) -> Shorten:
        generator = torch.Generator().manual_seed(seed)
        return lambda tokens, share: keep_best(torch.rand(len(tokens), generator=generator), tokens, share)

    return {
        "score head": [lambda tokens, share: shorten(head, embedding, tokens, share)],
        "score head, single words": [
            lambda tokens, share: keep_best(head(embedding(torch.tensor([list(tokens)])))[0], tokens, share)
        ],
        "random": [at_random(seed) for seed in range(DRAWS)],
        "the end": [lambda tokens, share: keep_best(torch.arange(float(len(tokens))), tokens, share)],
    }


def nats_after(logits: Logits, windows: Sequence[Sequence[int]], way: Shorten, share: float) -> list[float]:
    """Mean negative log-likelihood of each window's last quarter after its shortened prompt."""
    nats = []
    for window in windows:
        prompt = len(window) * 3 // 4
        rest = list(window[prompt:])
        given = [*way(window[:prompt], share), *rest[:-1]]
        values_SV = torch.from_numpy(logits(given))[-len(rest) :]
        nats.append(float(torch.nn.functional.cross_entropy(values_SV, torch.tensor(rest))))
    return nats


def right(model: PreTrainedModel, questions: Sequence[Question], way: Shorten, share: float) -> float:
    """Share of the questions that are answered rightly, some of them read at once: one pass over the weights serves all."""
    shortened = [replace(question, context=tuple(way(question.context, share))) for question in questions]
    groups = [shortened[start : start + _AT_ONCE] for start in range(0, len(shortened), _AT_ONCE)]
    return sum(sum(multiple_choice(_read(model, group), group).correct) for group in groups) / len(questions)


@torch.no_grad()
def _read(model: PreTrainedModel, questions: Sequence[Question]) -> Logits:
    """Logits of everything that these questions ask for; what is beyond a sequence's end is not seen by what is before."""
    asked = sorted({(*one.context, *choice[:-1]) for one in questions for choice in one.choices})
    tokens_BS = torch.zeros(len(asked), max(map(len, asked)), dtype=torch.long)
    for row, sequence in enumerate(asked):
        tokens_BS[row, : len(sequence)] = torch.tensor(sequence)
    values_BSV = model(input_ids=tokens_BS, use_cache=False).logits.float().numpy()
    known = {sequence: values_SV[: len(sequence)] for sequence, values_SV in zip(asked, values_BSV, strict=True)}
    return lambda sequence: known[tuple(sequence)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=128, help="of training text that the head learns from")
    parser.add_argument(
        "--questions", type=int, default=100, help="at most; 0: text alone, which takes minutes and not hours"
    )
    given = parser.parse_args()
    work = Workspace.of()
    made = Supernet.load(work.supernet_folder, work.model(torch.float32))
    tokens_WT = torch.from_numpy(work.data.train_WT).long()[: given.windows]
    settings = PromptSettings()
    head = train_score_head(made.model, tokens_WT, settings, progress("benchmark: what tokens are worth"))
    questions = work.data.questions[len(work.data.questions) // 2 :][: given.questions]
    shape = made.space.mixed[len(made.space.mixed) // 2]
    rows, kept = [], {}
    for name in (made.full, shape):
        with made.active(name) as model:
            logits, embedding = logits_of(model), model.get_input_embeddings()
            by_way = ways(head, embedding)
            whole = [(1.0, "whole prompt", by_way["the end"])]
            for share, way, draws in (*whole, *((s, w, d) for s in SHARES for w, d in by_way.items())):
                say(f"benchmark: {name}, {share:.0%} of the prompt, {way}")
                nats = [nats_after(logits, work.evaluation_windows, draw, share) for draw in draws]
                text = math.exp(statistics.mean(statistics.mean(windows) for windows in nats))
                kept[f"{name} {share} {way}"] = {"perplexity": text, "nats": nats}
                answered = ""
                if questions:
                    accuracy = statistics.mean(right(model, questions, draw, share) for draw in draws)
                    kept[f"{name} {share} {way}"]["accuracy"] = accuracy
                    answered = f"{accuracy:.1%}"
                rows.append([str(name), f"{share:.0%}", way, f"{text:.2f}", answered])
    _record.table(["shape", "share", "kept", "perplexity of the rest", f"right of {len(questions)}"], rows)
    facts = {"settings": vars(settings), "windows": given.windows, "questions": len(questions)}
    _record.keep("prompts", {**facts, "outcomes": kept})


if __name__ == "__main__":
    main()
