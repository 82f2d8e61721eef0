import copy
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from fixtures.tiny import make_model
from safetensors import safe_open

from components.evaluate import perplexity
from components.finetune import (
    DivergedError,
    FinetuneSettings,
    _accumulate,
    balanced_backward,
    batch_order,
    distill,
    finetune,
)
from components.reference import logits_of
from components.selection import SelectionSettings, select
from components.shape import Shape, ShapeSpace, parse_shape
from components.smol import AdapterSettings, usage_entropy
from components.supernet import Supernet
from components.team import ALONE, Team

SETTINGS = FinetuneSettings(
    steps=40,
    batch_size=4,
    students=3,
    learning_rate=5e-3,
    warmup_steps=3,
    max_gradient_norm=1.0,
    checkpoint_every=10,
    evaluate_every=15,
    seed=0,
)
SPACE = ShapeSpace((4, 3, 2), (100, 50), mixed=(parse_shape("h4c24"),))
ADAPTERS = AdapterSettings(rank=8, alpha=16, experts=3, top_k=2)
NEVER_SAMPLED = Shape(3, 75)


def small_language(windows: int, seed: int) -> torch.Tensor:
    """Windows of a language of 12 words in which most words have one follower: something a student can learn."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(12, (windows, 1), generator=generator)
    for _ in range(31):
        surprise = torch.rand(windows, 1, generator=generator) < 0.2
        words = torch.cat(
            [
                words,
                torch.where(
                    surprise, torch.randint(12, (windows, 1), generator=generator), (words[:, -1:] * 5 + 1) % 12
                ),
            ],
            1,
        )
    return words + 2


WINDOWS = small_language(16, seed=2)
HELD_OUT = small_language(8, seed=3)


def supernet(adapters: AdapterSettings = ADAPTERS) -> Supernet:
    """Over a base that is sure of its answers, so that there is something to teach."""
    model = make_model()
    with torch.no_grad():
        model.lm_head.weight *= 3
    selection = select(copy.deepcopy(model), WINDOWS[:2], SelectionSettings(2, 1, 4, "fluctuation", 8))
    return Supernet(model, selection, SPACE, adapters)


def distance(made: Supernet, shape: Shape) -> float:
    """KL from the full shape on text nobody trained on."""
    with torch.no_grad():
        with made.active(made.full) as full:
            wanted = full(HELD_OUT).logits.log_softmax(-1)
        with made.active(shape) as student:
            given = student(HELD_OUT).logits.log_softmax(-1)
    return float(F.kl_div(given, wanted, log_target=True, reduction="none").sum(-1).mean())


def test_training_brings_every_shape_nearer_and_the_full_one_nowhere() -> None:
    made = supernet()
    watched = (SPACE.smallest, Shape(4, 50), NEVER_SAMPLED)
    before = {shape: distance(made, shape) for shape in watched}
    full = perplexity(logits_of(made.model), HELD_OUT.tolist())
    finetune(made, WINDOWS, SETTINGS)
    for shape in watched:
        assert distance(made, shape) < 0.9 * before[shape], shape
    assert perplexity(logits_of(made.model), HELD_OUT.tolist()) == full


def test_without_a_learning_rate_nothing_moves() -> None:
    made = supernet()
    before = {name: tensor.detach().clone() for name, tensor in made.trainable().items()}
    finetune(made, WINDOWS, replace(SETTINGS, learning_rate=0.0, steps=3))
    assert all(torch.equal(tensor, before[name]) for name, tensor in made.trainable().items())


def test_a_teacher_whose_answers_are_shuffled_teaches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from components import finetune as module

    honest = module._teach

    def shuffled(made: Supernet, tokens_BT: torch.Tensor) -> tuple[list[torch.Tensor], float]:
        teacher, reference = honest(made, tokens_BT)
        order = torch.randperm(teacher[0].shape[-1], generator=torch.Generator().manual_seed(0))
        return [logits[:, order] for logits in teacher], reference

    monkeypatch.setattr(module, "_teach", shuffled)
    made = supernet()
    before = distance(made, SPACE.smallest)
    finetune(made, WINDOWS, SETTINGS)
    assert distance(made, SPACE.smallest) > 0.9 * before


@pytest.mark.parametrize("mixing", ["factors", "product"])
def test_after_training_shapes_have_different_mixtures_and_no_expert_does_everything(mixing: str) -> None:
    made = supernet(replace(ADAPTERS, mixing=mixing))
    finetune(made, WINDOWS, SETTINGS)
    students = [shape for shape in SPACE.all if shape != made.full]
    mixtures_SE = made.mixtures(students)
    assert (mixtures_SE > 0).sum(1).tolist() == [2] * len(students)
    assert len({tuple(row) for row in mixtures_SE.tolist()}) == len(students)
    assert usage_entropy(mixtures_SE) >= 0.5 * math.log(3)


def test_a_batch_read_in_parts_steps_like_the_mean_of_its_parts() -> None:
    whole, parted = supernet(), supernet()
    first, second = WINDOWS[0:4:2], WINDOWS[1:4:2]
    for part in (first, second):
        distill(whole, part, (SPACE.smallest,), 2)
    _accumulate(parted, WINDOWS, [0, 1, 2, 3], (SPACE.smallest,), replace(SETTINGS, accumulate=2, gate_balance=0.0))
    wanted = whole.trainable()
    for name, tensor in parted.trainable().items():
        if not name.startswith("gate."):
            torch.testing.assert_close(tensor.grad, wanted[name].grad)


@pytest.mark.parametrize(("batch", "processes", "share"), [(8, 4, 2), (12, 2, 6)])
def test_a_share_that_cannot_be_read_in_equal_parts_is_refused_before_any_work(
    batch: int, processes: int, share: int
) -> None:
    team = Team(SimpleNamespace(num_processes=processes, process_index=0))  # type: ignore[arg-type]
    settings, asked = replace(SETTINGS, batch_size=batch, accumulate=4), []
    with pytest.raises(ValueError, match=f"accumulate 4 must divide the {share} windows .* batch_size {batch}"):
        finetune(supernet(), WINDOWS, settings, on_evaluate=asked.append, team=team)
    assert not asked


def test_an_in_place_teacher_learns_from_the_text_and_teaches() -> None:
    made = supernet(replace(ADAPTERS, adapt_full=True))
    full = perplexity(logits_of(made.model), HELD_OUT.tolist()).value
    before = distance(made, SPACE.smallest)
    finetune(made, WINDOWS, SETTINGS)
    assert perplexity(logits_of(made.model), HELD_OUT.tolist()).value < 0.9 * full
    assert distance(made, SPACE.smallest) < before


def test_a_loss_that_is_no_number_stops_names_the_batch_and_keeps_the_checkpoint(tmp_path) -> None:
    checkpoint = tmp_path / "checkpoint.safetensors"
    made = supernet()

    def poison(report) -> None:
        if report.step == 12:
            with torch.no_grad():
                made.layer(0).mlp.up_proj.weight_OI[0, 0] = torch.nan

    with pytest.raises(DivergedError, match=r"at step 13 the loss of the teacher is nan on windows \[\d+, "):
        finetune(made, WINDOWS, SETTINGS, checkpoint, poison)
    with safe_open(checkpoint, "pt") as saved:
        assert saved.metadata()["step"] == "10"
        assert all(bool(torch.isfinite(saved.get_tensor(name)).all()) for name in saved.keys())  # noqa: SIM118


@pytest.mark.parametrize("overflow", [math.inf, math.nan])
def test_a_gradient_that_is_no_number_is_not_stepped_on_though_every_loss_is_one(tmp_path, overflow: float) -> None:
    checkpoint, made = tmp_path / "checkpoint.safetensors", supernet()
    done: list[int] = []
    factor = made.linears["3.down_proj"].B_EOR
    factor.register_hook(lambda gradient: gradient * overflow if len(done) == 9 else gradient)
    settings = replace(SETTINGS, checkpoint_every=5)
    with pytest.raises(DivergedError, match=r"at step 10 the norm of the gradient is (inf|nan) on windows \[\d+, "):
        finetune(made, WINDOWS, settings, checkpoint, lambda report: done.append(report.step))
    assert all(bool(torch.isfinite(tensor).all()) for tensor in made.trainable().values())
    with safe_open(checkpoint, "pt") as saved:
        assert saved.metadata()["step"] == "5"


def test_a_checkpoint_of_other_settings_is_refused(tmp_path) -> None:
    checkpoint = tmp_path / "checkpoint.safetensors"
    finetune(supernet(), WINDOWS, replace(SETTINGS, steps=10), checkpoint)
    with pytest.raises(ValueError, match="a checkpoint of other settings"):
        finetune(supernet(), WINDOWS, SETTINGS, checkpoint)


def slow_balanced(hidden: torch.Tensor, head: torch.nn.Module, teacher: torch.Tensor, reference: float) -> torch.Tensor:
    loss = -(teacher.softmax(-1) * head(hidden).log_softmax(-1)).sum(-1).mean()
    return reference / loss.detach() * loss


@pytest.mark.parametrize("positions", [1, 130, 300])
def test_the_balanced_loss_has_the_references_value_and_the_scaled_gradient(positions: int) -> None:
    torch.manual_seed(0)
    head, hidden = torch.nn.Linear(8, 20, bias=False).requires_grad_(False), torch.randn(positions, 8)
    teacher = torch.randn(positions, 20)
    one, other = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    balanced = slow_balanced(one, head, teacher, reference=1.7)
    assert balanced.item() == pytest.approx(1.7)
    balanced.backward()
    loss = balanced_backward(other * 1.0, head, teacher.softmax(-1).split(128), reference=1.7)
    assert loss == pytest.approx(float(-(teacher.softmax(-1) * head(hidden).log_softmax(-1)).sum(-1).mean()))
    torch.testing.assert_close(other.grad, one.grad, rtol=1e-4, atol=1e-6)


def test_the_teacher_gets_no_gradient_and_the_base_none_either() -> None:
    made = supernet()
    distill(made, WINDOWS[:2], (SPACE.smallest,))
    assert all(p.grad is None for name, p in made.model.named_parameters() if not name.endswith(("A_ERI", "B_EOR")))
    assert any(tensor.grad is not None for tensor in made.trainable().values())


def test_on_a_single_token_a_student_that_is_the_teacher_reaches_the_reference() -> None:
    made = supernet()
    full = Shape(4, 99)  # every neuron at this multiple, but adapters on: fresh ones change nothing
    losses, reference = distill(made, torch.tensor([[5]]), (full,))
    assert losses[0] == pytest.approx(reference, rel=1e-4)


def test_position_by_position_alignment_beats_any_shift() -> None:
    made = supernet()
    _, reference = distill(made, WINDOWS[:2], (Shape(4, 99),))
    with torch.no_grad(), made.active(made.full) as model:
        logits = model(WINDOWS[:2]).logits
    shifted = -(logits[:, 1:].softmax(-1) * logits[:, :-1].log_softmax(-1)).sum(-1).mean()
    losses, _ = distill(made, WINDOWS[:2], (Shape(4, 99),))
    assert losses[0] == pytest.approx(reference, rel=1e-4)
    assert float(shifted) > reference * 1.05


def test_killed_and_resumed_gives_the_bits_of_never_killed(tmp_path) -> None:
    undisturbed = supernet()
    finetune(undisturbed, WINDOWS, SETTINGS)
    checkpoint = tmp_path / "checkpoint.safetensors"

    def kill(report) -> None:
        if report.step == 17:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(supernet(), WINDOWS, SETTINGS, checkpoint, kill)
    steps = []
    resumed = supernet()
    finetune(resumed, WINDOWS, SETTINGS, checkpoint, lambda report: steps.append(report.step))
    assert steps == list(range(11, 41))
    wanted = undisturbed.trainable()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in resumed.trainable().items())


def test_every_window_is_read_once_an_epoch_and_the_order_depends_on_the_step_alone() -> None:
    whole = list(batch_order(16, SETTINGS, 0))
    assert sorted(index for batch in whole[:4] for index in batch) == list(range(16))
    assert list(batch_order(16, SETTINGS, 7)) == whole[7:]


def test_too_little_text_for_a_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="a batch takes 4 windows of text, but there are only 3"):
        finetune(supernet(), WINDOWS[:3], SETTINGS)


def test_the_curve_is_asked_for_at_the_start_in_between_and_at_the_end() -> None:
    asked: list[int] = []
    finetune(supernet(), WINDOWS, SETTINGS, on_evaluate=asked.append)
    assert asked == [0, 15, 30, 40]


def test_what_was_noted_of_a_training_comes_back_with_its_checkpoint(tmp_path) -> None:
    def noting(notes: dict[str, list[float]], until: int):
        def note(report) -> None:
            notes["losses"].append(report.reference)
            if report.step == until:
                raise KeyboardInterrupt

        return note

    whole: dict[str, list[float]] = {"losses": []}
    finetune(supernet(), WINDOWS, SETTINGS, on_step=noting(whole, 0), notes=whole)
    checkpoint = tmp_path / "checkpoint.safetensors"
    killed: dict[str, list[float]] = {"losses": []}
    with pytest.raises(KeyboardInterrupt):
        finetune(supernet(), WINDOWS, SETTINGS, checkpoint, noting(killed, 17), notes=killed)
    resumed: dict[str, list[float]] = {"losses": []}
    finetune(supernet(), WINDOWS, SETTINGS, checkpoint, noting(resumed, 0), notes=resumed)
    assert len(whole["losses"]) == 40
    assert resumed == whole


@pytest.mark.parametrize("place", [9, 400, -1])
def test_a_checkpoint_that_was_damaged_is_left_and_training_starts_anew(tmp_path, place: int) -> None:
    checkpoint = tmp_path / "checkpoint.safetensors"
    settings = replace(SETTINGS, steps=10)
    wanted = supernet()
    finetune(wanted, WINDOWS, settings, checkpoint)
    content = bytearray(checkpoint.read_bytes())
    content[place] ^= 1
    checkpoint.write_bytes(content)
    steps: list[int] = []
    made = supernet()
    finetune(made, WINDOWS, settings, checkpoint, lambda report: steps.append(report.step))
    assert steps == list(range(1, 11))
    assert all(torch.equal(tensor, wanted.trainable()[name]) for name, tensor in made.trainable().items())


@pytest.mark.skipif(not torch.accelerator.is_available(), reason="this machine has no accelerator")
def test_an_accelerator_trains_to_what_the_processor_does() -> None:
    on_processor, on_accelerator = supernet(), supernet()
    ALONE.place(on_accelerator.model, ())
    assert on_accelerator.model.device.type == ALONE.device.type != "cpu"
    for made in (on_processor, on_accelerator):
        finetune(made, WINDOWS, replace(SETTINGS, steps=4))
    for name, tensor in on_processor.trainable().items():
        torch.testing.assert_close(on_accelerator.trainable()[name].cpu(), tensor, rtol=1e-2, atol=1e-4)
