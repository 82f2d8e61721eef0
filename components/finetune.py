"""Stage 2: one fine-tune for all shapes, by sandwich sampling, distillation and loss-magnitude balancing.

Each step the frozen base, which is the full shape with adapters off, reads a batch; the smallest shape and some random
ones are then taught its next-token distributions (AmoebaLLM, section 4.3).

Legend: B sequences, T positions, N = B T, H hidden size, V vocabulary, C positions handled at once.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from components.shape import Shape
from components.supernet import Supernet

_POSITIONS_AT_ONCE = 128


@dataclass(frozen=True)
class FinetuneSettings:
    """Numbers of `params.yaml` that decide a fine-tune."""

    steps: int
    batch_size: int
    students: int
    learning_rate: float
    warmup_steps: int
    max_gradient_norm: float
    checkpoint_every: int
    evaluate_every: int
    seed: int

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "students", "checkpoint_every", "evaluate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"finetune.{name} must be at least 1, got {getattr(self, name)}")

    def rate(self, step: int) -> float:
        """Linear warm-up, then a cosine to a tenth."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.learning_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))


@dataclass(frozen=True)
class StepReport:
    step: int
    learning_rate: float
    losses: dict[str, float]
    """Soft cross-entropy of each student, nats a token, before balancing."""
    reference: float
    """The teacher's own entropy: what a perfect student would reach."""


def finetune(
    supernet: Supernet,
    tokens_WT: Tensor,
    settings: FinetuneSettings,
    checkpoint: Path | None = None,
    on_step: Callable[[StepReport], None] = lambda report: None,
    on_evaluate: Callable[[int], None] = lambda step: None,
) -> None:
    """Train the supernet's adapters in place on windows of token ids [W, T].

    `on_evaluate` is called before the first step, every `evaluate_every` steps and at the end. Where `checkpoint` names
    a file, training saves to it and continues from it: killed and resumed gives the same bits as never killed.
    """
    factors = supernet.trainable()
    optimizer = torch.optim.AdamW(factors.values(), lr=settings.learning_rate, weight_decay=0.0)
    first = _resume(checkpoint, factors, optimizer) if checkpoint and checkpoint.is_file() else 0
    batches = batch_order(len(tokens_WT), settings, first)
    for step in range(first, settings.steps):
        if step % settings.evaluate_every == 0:
            on_evaluate(step)
        shapes = supernet.space.sandwich(settings.students, random.Random(f"{settings.seed}/{step}"))
        for group in optimizer.param_groups:
            group["lr"] = settings.rate(step)
        optimizer.zero_grad(set_to_none=True)
        losses, reference = distill(supernet, tokens_WT[next(batches)].long(), shapes)
        torch.nn.utils.clip_grad_norm_(factors.values(), settings.max_gradient_norm)
        optimizer.step()
        on_step(StepReport(step + 1, settings.rate(step), dict(zip(map(str, shapes), losses, strict=True)), reference))
        if checkpoint and (step + 1) % settings.checkpoint_every == 0:
            _save(checkpoint, step + 1, factors, optimizer)
    on_evaluate(settings.steps)


def distill(supernet: Supernet, tokens_BT: Tensor, shapes: Sequence[Shape]) -> tuple[list[float], float]:
    """Add the balanced gradients of `shapes` to the adapters; returns each student's loss and the reference."""
    tokens_BT = tokens_BT.to(supernet.model.device)
    teacher_CV, reference = _teach(supernet, tokens_BT)
    losses = []
    for shape in shapes:
        with supernet.active(shape) as student:
            hidden_BTH = student.model(input_ids=tokens_BT, use_cache=False).last_hidden_state
            losses.append(
                balanced_backward(hidden_BTH.flatten(0, 1), student.lm_head, teacher_CV, reference, len(shapes))
            )
    return losses, reference


def balanced_backward(
    hidden_NH: Tensor, head: torch.nn.Module, teacher_CV: Sequence[Tensor], reference: float, students: int = 1
) -> float:
    """Backward of sg(reference) / sg(loss) * loss / students, where loss is soft cross-entropy; returns the loss.

    The gradient towards the hidden states is gathered a few positions at a time, so that positions x vocabulary never
    stands in float32 at once; being linear, it takes its balance weight at the end (AmoebaLLM, equation 4).
    """
    leaf_NH = hidden_NH.detach().requires_grad_()
    loss = 0.0
    for rows_CH, logits_CV in zip(leaf_NH.split(_POSITIONS_AT_ONCE), teacher_CV, strict=True):
        student_CV = head(rows_CH).float().log_softmax(-1)
        part = -(logits_CV.float().softmax(-1) * student_CV).sum() / len(leaf_NH)
        part.backward()
        loss += float(part.detach())
    assert leaf_NH.grad is not None
    if hidden_NH.requires_grad:
        hidden_NH.backward(leaf_NH.grad * (reference / loss / students))
    return loss


@torch.no_grad()
def _teach(supernet: Supernet, tokens_BT: Tensor) -> tuple[list[Tensor], float]:
    """The base's logits, a few positions at a time, and its entropy a token."""
    with supernet.active(supernet.full) as teacher:
        hidden_NH = teacher.model(input_ids=tokens_BT, use_cache=False).last_hidden_state.flatten(0, 1)
        teacher_CV = [teacher.lm_head(rows_CH) for rows_CH in hidden_NH.split(_POSITIONS_AT_ONCE)]
    entropy = 0.0
    for logits_CV in teacher_CV:
        log_CV = logits_CV.float().log_softmax(-1)
        entropy -= float((log_CV.exp() * log_CV).sum()) / len(hidden_NH)
    return teacher_CV, entropy


def batch_order(windows: int, settings: FinetuneSettings, first_step: int) -> Iterator[list[int]]:
    """Window indices of each step from `first_step` on; an order an epoch, drawn from the seed alone."""
    if windows < settings.batch_size:
        raise ValueError(f"a batch takes {settings.batch_size} windows of text, but there are only {windows}")
    a_epoch = windows // settings.batch_size
    for step in range(first_step, settings.steps):
        order = list(range(windows))
        random.Random(f"{settings.seed}/epoch {step // a_epoch}").shuffle(order)
        start = step % a_epoch * settings.batch_size
        yield order[start : start + settings.batch_size]


def _save(path: Path, step: int, factors: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
    """Write factors and Adam's moments beside `path`, sync, then rename over it."""
    tensors = {f"factor/{name}": tensor.detach() for name, tensor in factors.items()}
    for name, tensor in factors.items():
        # A factor that no sampled shape has used yet has no moments.
        for moment, value in optimizer.state.get(tensor, {}).items():
            tensors[f"{moment}/{name}"] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".partial")
    try:
        save_file(tensors, beside, metadata={"step": str(step)})
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


@torch.no_grad()
def _resume(path: Path, factors: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> int:
    with safe_open(path, "pt") as saved:
        step = int(saved.metadata()["step"])
        names = set(saved.keys())
        for name, tensor in factors.items():
            tensor.copy_(saved.get_tensor(f"factor/{name}"))
            if f"step/{name}" in names:
                optimizer.state[tensor] = {
                    "step": saved.get_tensor(f"step/{name}"),
                    "exp_avg": saved.get_tensor(f"exp_avg/{name}").to(tensor.device),
                    "exp_avg_sq": saved.get_tensor(f"exp_avg_sq/{name}").to(tensor.device),
                }
    return step
