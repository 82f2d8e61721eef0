"""A shorter prompt where the first token must come sooner: a small head ranks a prompt's tokens, the best share is kept.

From ElastiLM (arXiv 2409.09071, section 4). The head reads the base's own embeddings, so a device needs 0.1 % more weights; it
learns from the pipeline's text what the rest of a window would lose without each token, to first order. Ours are two additions
(docs/decisions/18-phrases.md): it sees how far from the end a token is, and ranks by phrases.

Legend: B sequences, T positions, H hidden size, W the head's width, P positions of a prompt.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel


@dataclass(frozen=True)
class PromptSettings:
    """Numbers that decide a score head."""

    width: int = 64
    reach: int = 9
    """Positions around a token that its score depends on; odd."""
    phrase: int = 17
    """Positions around a token whose scores its rank is the mean of; odd."""
    steps: int = 200
    batch_size: int = 8
    learning_rate: float = 2e-3
    seed: int = 0


class ScoreHead(nn.Module):
    """Importance of every token from the embeddings around it and what follows: [B, T, H] -> [B, T]; more is more important."""

    def __init__(self, hidden: int, settings: PromptSettings) -> None:
        super().__init__()
        self.phrase = settings.phrase
        self.norm = nn.LayerNorm(hidden)
        self.narrow = nn.Linear(hidden, settings.width)
        self.place = nn.Linear(2, settings.width)
        self.around = nn.Conv1d(settings.width, settings.width, settings.reach, padding=settings.reach // 2)
        self.score = nn.Linear(settings.width, 1)

    def forward(self, embeddings_BTH: Tensor) -> Tensor:
        length = embeddings_BTH.shape[1]
        after_T = torch.arange(length - 1, -1, -1, dtype=torch.float32)
        place_TW = self.place(torch.stack([after_T.log1p(), after_T / length], -1))
        narrow_BTW = F.gelu(self.narrow(self.norm(embeddings_BTH)) + place_TW)
        around_BTW = self.around(narrow_BTW.transpose(1, 2)).transpose(1, 2)
        scores_BT: Tensor = self.score(F.gelu(narrow_BTW + around_BTW)).squeeze(-1)
        return scores_BT

    def rank(self, embeddings_BTH: Tensor) -> Tensor:
        """What a prompt is shortened by, [B, T]: the mean score around each token, so that phrases stay and not single words."""
        scores_B1T = self(embeddings_BTH)[:, None]
        return F.avg_pool1d(scores_B1T, self.phrase, 1, self.phrase // 2, count_include_pad=False)[:, 0]


def importance(model: PreTrainedModel, tokens_BT: Tensor, prompt: int) -> Tensor:
    """What the text after the first `prompt` tokens loses without each of them, to first order, [B, P].

    |e . dL/de| of a token's embedding e for the loss L of the rest; as z-scores of its logarithm, which compare within a
    window only.
    """
    embeddings_BTH = model.get_input_embeddings()(tokens_BT).detach().requires_grad_()
    logits_BTV = model(inputs_embeds=embeddings_BTH, use_cache=False).logits[:, prompt - 1 : -1].float()
    loss = F.cross_entropy(logits_BTV.flatten(0, 1), tokens_BT[:, prompt:].flatten())
    (gradient_BTH,) = torch.autograd.grad(loss, embeddings_BTH)
    effect_BP = (gradient_BTH * embeddings_BTH).sum(-1)[:, :prompt].detach().float().abs()
    log_BP = effect_BP.clamp_min(1e-12).log()
    scores_BP: Tensor = (log_BP - log_BP.mean(1, keepdim=True)) / log_BP.std(1, keepdim=True)
    return scores_BP


def train_score_head(
    model: PreTrainedModel,
    tokens_WT: Tensor,
    settings: PromptSettings,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ScoreHead:
    """Teach a head `importance` on windows whose first three quarters are the prompt; the model is not changed.

    Only windows that a batch is drawn from are labelled, each once.
    """
    prompt, embedding = tokens_WT.shape[1] * 3 // 4, model.get_input_embeddings()
    generator = torch.Generator().manual_seed(settings.seed)
    size = min(settings.batch_size, len(tokens_WT))
    batches = [torch.randint(len(tokens_WT), (size,), generator=generator) for _ in range(settings.steps)]
    used = torch.cat(batches).unique().tolist()
    labels_P = {}
    for done, window in enumerate(used, 1):
        (labels_P[window],) = importance(model, tokens_WT[window : window + 1], prompt)
        progress(done, len(used))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        head = ScoreHead(model.config.hidden_size, settings)
    optimizer = torch.optim.AdamW(head.parameters(), lr=settings.learning_rate)
    for step, rows in enumerate(batches):
        with torch.no_grad():
            embeddings_BPH = embedding(tokens_WT[rows, :prompt]).float()
        labels_BP = torch.stack([labels_P[window] for window in rows.tolist()])
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * 0.5 * (1 + math.cos(math.pi * step / settings.steps))
        optimizer.zero_grad()
        F.mse_loss(head(embeddings_BPH), labels_BP).backward()
        optimizer.step()
    return head.eval().requires_grad_(False)


@torch.no_grad()
def shorten(head: ScoreHead, embedding: nn.Module, tokens: Sequence[int], share: float) -> list[int]:
    """The most important `share` of a prompt's tokens, in their order, as the head ranks them."""
    return keep_best(head.rank(embedding(torch.tensor([list(tokens)])).float())[0], tokens, share)


def keep_best(scores_T: Tensor, tokens: Sequence[int], share: float, kept_last: int = 8) -> list[int]:
    """The `share` of `tokens` of the highest scores in their order; the first and the last few always stay.

    The first is where attention rests when it has nowhere else to go, the last are the question and the template's end.
    """
    if not 0 < share <= 1:
        raise ValueError(f"a share of the prompt is above 0 and at most 1, got {share}")
    wanted = max(math.ceil(share * len(tokens)), min(len(tokens), kept_last + 1))
    if wanted >= len(tokens):
        return list(tokens)
    scores_T = scores_T.clone()
    scores_T[0] = math.inf
    scores_T[len(tokens) - kept_last :] = math.inf
    return [tokens[index] for index in scores_T.topk(wanted).indices.sort().values.tolist()]


@dataclass(frozen=True)
class Operating:
    """One way to answer: a share of the prompt on a shape, with its latencies as shares of the full model's on a whole prompt."""

    prompt_share: float
    shape: str
    ttft: float
    tpot: float
    quality: float
    """Mean log-likelihood of held-out text after that share of what comes before it, nats a token; more is better."""


@dataclass(frozen=True)
class Objective:
    """What latencies are wished for, as shares of the full model's: `<0.6, 0.8>`."""

    ttft: float
    tpot: float

    @classmethod
    def parse(cls, text: str) -> Objective:
        """Read percents, `60,80`; raises ValueError for anything else."""
        try:
            ttft, tpot = (float(part) / 100 for part in text.split(","))
        except ValueError:
            ttft = tpot = math.nan
        if not (0 < ttft <= 1 and 0 < tpot <= 1):
            raise ValueError(
                f"an objective is two percents of the full model's time to first token and time per token, like 60,80; got {text!r}"
            )
        return cls(ttft, tpot)

    def excess(self, point: Operating) -> float:
        """By how much the worse of both latencies is missed, as a share of what was wished; 0 where both are met."""
        return max(0.0, point.ttft / self.ttft - 1, point.tpot / self.tpot - 1)


@dataclass(frozen=True)
class Decision:
    point: Operating
    met: bool
    """Whether the objective is met; where nothing meets it, the point is the nearest to it."""


def decide(points: Sequence[Operating], objective: Objective) -> Decision:
    """The point of best quality that meets the objective, the faster of equals; else the one that misses it least."""
    if not points:
        raise ValueError("there is nothing to decide between: no operating points were measured")
    feasible = [point for point in points if objective.excess(point) == 0]
    if feasible:
        return Decision(max(feasible, key=lambda p: (p.quality, -p.ttft, -p.tpot)), met=True)
    return Decision(min(points, key=lambda p: (objective.excess(p), -p.quality)), met=False)
