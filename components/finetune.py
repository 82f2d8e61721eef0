"""Stage 2: one fine-tune for all shapes, by sandwich sampling, distillation and loss-magnitude balancing.

Each step the frozen base, which is the full shape with adapters off, reads a batch; the smallest shape and some random
ones are then taught its next-token distributions (AmoebaLLM, section 4.3). Where the full shape is adapted too, it learns
from the text and teaches in place.

Legend: B sequences, T positions, N = B T, H hidden size, V vocabulary, C positions handled at once.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from components.progress import say
from components.shape import AnyShape
from components.smol import exploring, imbalance
from components.supernet import Supernet
from components.team import ALONE, Team

_POSITIONS_AT_ONCE = 64


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
    accumulate: int = 1
    """Parts that a batch is read in, one after the other; memory falls with it. Each is balanced by its own reference and losses,
    so that the gradient is the mean of the parts', not the whole batch's."""
    gate_rate: float = 0.5
    """Learning rate of the gate as a share of the adapters'."""
    gate_dense_share: float = 0.25
    """Share of the steps in which every expert is active."""
    gate_balance: float = 0.01
    """Weight of the experts' imbalance over the shapes of a step."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "students", "checkpoint_every", "evaluate_every", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"finetune.{name} must be at least 1, got {getattr(self, name)}")
        if self.batch_size % self.accumulate:
            raise ValueError(f"finetune.accumulate {self.accumulate} must divide batch_size {self.batch_size}")
        if not 0 <= self.gate_rate <= 1:
            raise ValueError(f"finetune.gate_rate is 0 to 1, since a faster gate collapses; got {self.gate_rate}")

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


class DivergedError(ValueError):
    """A loss or a gradient that is not a number; the last checkpoint is from before."""


def finetune(
    supernet: Supernet,
    tokens_WT: Tensor,
    settings: FinetuneSettings,
    checkpoint: Path | None = None,
    on_step: Callable[[StepReport], None] = lambda report: None,
    on_evaluate: Callable[[int], None] = lambda step: None,
    team: Team = ALONE,
    notes: dict[str, Any] | None = None,
) -> None:
    """Train the supernet's adapters in place on windows of token ids [W, T].

    `on_evaluate` is called before the first step, every `evaluate_every` steps and at the end. Where `checkpoint` names
    a file, training saves to it and continues from it: killed and resumed gives the same bits as never killed. What
    the callbacks note of the training, as JSON values in `notes`, is saved with it and comes back. A checkpoint that is not
    what was saved is left, and training starts anew. Every process of a `team` reads its share of each batch. Raises
    DivergedError naming the batch whose loss or gradient is not finite, and ValueError for a checkpoint of other settings and
    for a batch that the team cannot share, or a share that cannot be read in `accumulate` equal parts.
    """
    share = len(team.share(list(range(settings.batch_size))))
    if share % settings.accumulate:
        raise ValueError(
            f"finetune.accumulate {settings.accumulate} must divide the {share} windows that each process reads of "
            f"batch_size {settings.batch_size}"
        )
    trained = supernet.trainable()
    optimizer = torch.optim.AdamW(_groups(trained, settings), weight_decay=0.0, fused=True)
    saved = _Checkpoint(checkpoint, trained, optimizer, _configuration(supernet, settings), notes)
    first = saved.resume()
    batches = batch_order(len(tokens_WT), settings, first)
    for step in range(first, settings.steps):
        if step % settings.evaluate_every == 0:
            on_evaluate(step)
        batch = next(batches)
        shapes = supernet.space.sandwich(settings.students, random.Random(f"{settings.seed}/{step}"))
        rate = settings.rate(step)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["share"]
        optimizer.zero_grad(set_to_none=True)
        noise = random.Random(f"{settings.seed}/{step}/gate").getrandbits(62)
        with exploring(supernet.gate, noise, dense=step < settings.gate_dense_share * settings.steps):
            losses, reference = _accumulate(supernet, tokens_WT, team.share(batch), shapes, settings)
        by_shape = dict(zip(map(str, shapes), losses, strict=True))
        _check_finite("loss", {"the teacher": reference, **by_shape}, step, batch)
        team.average_gradients(trained.values())
        norm = torch.nn.utils.clip_grad_norm_(trained.values(), settings.max_gradient_norm)
        _check_finite("norm", {"the gradient": float(norm)}, step, batch)
        optimizer.step()
        on_step(StepReport(step + 1, rate, by_shape, reference))
        if (step + 1) % settings.checkpoint_every == 0 and team.leads:
            saved.save(step + 1)
    on_evaluate(settings.steps)


def _accumulate(
    supernet: Supernet, tokens_WT: Tensor, batch: list[int], shapes: Sequence[AnyShape], settings: FinetuneSettings
) -> tuple[list[float], float]:
    """Gradients of a batch, read in parts that are balanced each by itself; losses and reference are the parts' means."""
    parts = [batch[start :: settings.accumulate] for start in range(settings.accumulate)]
    outcomes = [distill(supernet, tokens_WT[part].long(), shapes, settings.accumulate) for part in parts]
    if supernet.settings.experts > 1 and supernet.settings.gate == "learned":
        (settings.gate_balance * imbalance(supernet.mixtures(shapes))).backward()
    losses = [sum(values) / len(parts) for values in zip(*(losses for losses, _ in outcomes), strict=True)]
    return losses, sum(reference for _, reference in outcomes) / len(parts)


def distill(
    supernet: Supernet, tokens_BT: Tensor, shapes: Sequence[AnyShape], parts: int = 1
) -> tuple[list[float], float]:
    """Add the balanced gradients of `shapes` to the adapters, divided by `parts`; each student's loss and the reference."""
    tokens_BT = tokens_BT.to(supernet.model.device)
    if supernet.settings.adapt_full:
        _learn_from_text(supernet, tokens_BT, parts * len(shapes))
    teacher_CV, reference = _teach(supernet, tokens_BT)
    losses = []
    for shape in shapes:
        with supernet.active(shape) as student:
            hidden_BTH = student.model(input_ids=tokens_BT, use_cache=False).last_hidden_state
            losses.append(
                balanced_backward(hidden_BTH.flatten(0, 1), student.lm_head, teacher_CV, reference, parts * len(shapes))
            )
    return losses, reference


def _learn_from_text(supernet: Supernet, tokens_BT: Tensor, share: int) -> None:
    """The in-place teacher's own step: cross-entropy of the text, which is the reference already and needs no balance."""
    with supernet.active(supernet.full) as teacher:
        logits_BTV = teacher(input_ids=tokens_BT, use_cache=False).logits[:, :-1].float()
        loss = torch.nn.functional.cross_entropy(logits_BTV.flatten(0, 1), tokens_BT[:, 1:].flatten())
        (loss / share).backward()


def _check_finite(what: str, values: Mapping[str, float], step: int, batch: list[int]) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            raise DivergedError(
                f"at step {step + 1} the {what} of {name} is {value} on windows {batch} of the training text. The last "
                "checkpoint is from before; lower finetune.learning_rate, or look at that text"
            )


def _groups(trained: dict[str, Tensor], settings: FinetuneSettings) -> list[dict[str, Any]]:
    """The adapters at the full learning rate, the gate at its share of it."""
    gate = [tensor for name, tensor in trained.items() if name.startswith("gate.")]
    factors = [tensor for name, tensor in trained.items() if not name.startswith("gate.")]
    groups = ((factors, 1.0), (gate, settings.gate_rate))
    return [{"params": tensors, "share": share, "lr": settings.learning_rate} for tensors, share in groups if tensors]


def _configuration(supernet: Supernet, settings: FinetuneSettings) -> str:
    """Digest of what a checkpoint must have in common with the run that goes on from it."""
    facts = [vars(settings), vars(supernet.settings), [str(shape) for shape in supernet.space.all]]
    cuts = [str(supernet.selection.cut(shape)) for shape in supernet.space.all]
    return hashlib.sha256(json.dumps([facts, cuts], sort_keys=True).encode()).hexdigest()


@torch.no_grad()
def balanced_backward(
    hidden_NH: Tensor, head: torch.nn.Linear, teacher_CV: Sequence[Tensor], reference: float, students: int = 1
) -> float:
    """Backward of sg(reference) / sg(loss) * loss / students, where loss is soft cross-entropy; returns the loss.

    `teacher_CV` are the teacher's probabilities. The gradient of a position's logits is softmax(logits) - teacher, so it is
    written down, not derived: a few positions at a time, which stay in the processor's cache, and positions x vocabulary never
    stands in float32 at once. Being linear, it takes its balance weight at the end (AmoebaLLM, equation 4).
    """
    gradient_NH, loss, start = torch.empty_like(hidden_NH), 0.0, 0
    for teacher in teacher_CV:
        rows = slice(start, start + len(teacher))
        start = rows.stop
        logits_CV = head(hidden_NH[rows]).float()
        normalizer_C1 = logits_CV.logsumexp(-1, keepdim=True)
        loss += float((normalizer_C1.squeeze(1) - torch.linalg.vecdot(teacher.float(), logits_CV)).sum())
        logits_CV.sub_(normalizer_C1).exp_().sub_(teacher)
        gradient_NH[rows] = logits_CV.to(hidden_NH.dtype) @ head.weight
    loss /= len(hidden_NH)
    if hidden_NH.requires_grad:
        hidden_NH.backward(gradient_NH.mul_(reference / loss / students / len(hidden_NH)))
    return loss


@torch.no_grad()
def _teach(supernet: Supernet, tokens_BT: Tensor) -> tuple[list[Tensor], float]:
    """The teacher's probabilities in the base's precision, a few positions at a time, and their entropy a token."""
    with supernet.active(supernet.full) as teacher:
        hidden_NH = teacher.model(input_ids=tokens_BT, use_cache=False).last_hidden_state.flatten(0, 1)
        taught, entropy = [], 0.0
        for rows_CH in hidden_NH.split(_POSITIONS_AT_ONCE):
            logits_CV = teacher.lm_head(rows_CH).float()
            normalizer_C1 = logits_CV.logsumexp(-1, keepdim=True)
            probabilities_CV = (logits_CV - normalizer_C1).exp_()
            entropy += float((normalizer_C1.squeeze(1) - torch.linalg.vecdot(probabilities_CV, logits_CV)).sum())
            taught.append(probabilities_CV.to(hidden_NH.dtype))
    return taught, entropy / len(hidden_NH)


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


class _Checkpoint:
    """What is trained, Adam's moments, the step and the caller's notes, in one file that is whole or the one before."""

    def __init__(
        self,
        path: Path | None,
        trained: dict[str, Tensor],
        optimizer: torch.optim.Optimizer,
        configuration: str,
        notes: dict[str, Any] | None,
    ) -> None:
        self._path, self._trained, self._optimizer = path, trained, optimizer
        self._configuration, self._notes = configuration, notes

    def save(self, step: int) -> None:
        """Write beside, sync, then rename over the one before."""
        if self._path is None:
            return
        tensors = {f"trained/{name}": tensor.detach() for name, tensor in self._trained.items()}
        for name, tensor in self._trained.items():
            # What no sampled shape has used yet has no moments.
            for moment, value in self._optimizer.state.get(tensor, {}).items():
                tensors[f"{moment}/{name}"] = value
        metadata = {"step": str(step), "configuration": self._configuration, "notes": json.dumps(self._notes)}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        beside = self._path.with_suffix(".partial")
        try:
            save_file(tensors, beside, metadata={**metadata, "sha256": _digest(metadata, tensors)})
            with beside.open("rb") as file:
                os.fsync(file.fileno())
            beside.replace(self._path)
        finally:
            beside.unlink(missing_ok=True)

    @torch.no_grad()
    def resume(self) -> int:
        """Take up what is saved and return the next step, 0 where nothing is; raises ValueError for other settings'."""
        found = self._read()
        if found is None:
            return 0
        metadata, tensors = found
        if metadata["configuration"] != self._configuration:
            raise ValueError(
                f"{self._path} is a checkpoint of other settings, shapes or layers than these; remove it to start anew, "
                "or go back to the settings it was made with"
            )
        for name, tensor in self._trained.items():
            tensor.copy_(tensors[f"trained/{name}"])
            if f"step/{name}" in tensors:
                moments = ("step", "exp_avg", "exp_avg_sq")
                self._optimizer.state[tensor] = {one: tensors[f"{one}/{name}"].to(tensor.device) for one in moments}
        if self._notes is not None:
            self._notes.update(json.loads(metadata["notes"]) or {})
        return int(metadata["step"])

    def _read(self) -> tuple[dict[str, str], dict[str, Tensor]] | None:
        """None where there is no checkpoint, or it is not what was saved."""
        if self._path is None or not self._path.is_file():
            return None
        try:
            with safe_open(self._path, "pt") as saved:
                metadata = saved.metadata() or {}
                tensors = {name: saved.get_tensor(name) for name in saved.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            say(f"the checkpoint {self._path} cannot be read ({error}); training starts anew")
            return None
        if metadata.pop("sha256", "") != _digest(metadata, tensors):
            say(f"the checkpoint {self._path} is not what was saved; training starts anew")
            return None
        return metadata, tensors


def _digest(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of a checkpoint's every word and number."""
    total = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
