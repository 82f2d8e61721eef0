"""Ways to choose subnets of a base at 80, 67 and 53 % of its block parameters, before and after the same training.

    python -m benchmarks.methods --steps 64            every method, one fine-tune of its three shapes each
    python -m benchmarks.methods --steps 64 --alone    and each of our shapes trained alone for as many steps

Needs a workspace in which `amoeba onboard smollm2-135m` has run. All methods see the same calibration tokens; training is
the same text, steps, students and adapters; quality is on evaluation text and questions disjoint from both. What a run has
measured is kept under `.amoeba/benchmarks`, so a killed one goes on.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import _baselines, _record
from benchmarks._workspace import Workspace
from components.evaluate import multiple_choice, perplexity
from components.files import replace_text
from components.finetune import FinetuneSettings, finetune
from components.paired import of_likelihoods
from components.progress import progress, progress_of, say
from components.reference import logits_of
from components.selection import Selection, SelectionSettings, select
from components.shape import AnyShape, MixedShape, Shape, ShapeSpace
from components.smol import AdapterSettings, usage_entropy
from components.supernet import Supernet
from components.width import permute_neurons

BUDGETS = (80, 67, 53)
KEPT = Path(".amoeba/benchmarks/methods")
SELECTION = SelectionSettings(
    min_depth=16,
    kept_last=1,
    position_stride=4,
    width_metric="mean_square",
    neuron_multiple=64,
    width_windows=32,
    budgets_percent=BUDGETS,
    swaps=24,
)
TRAINING = FinetuneSettings(
    steps=64,
    batch_size=2,
    students=2,
    learning_rate=2e-3,
    warmup_steps=6,
    max_gradient_norm=1.0,
    checkpoint_every=16,
    evaluate_every=10_000,
    seed=0,
)
ADAPTERS = AdapterSettings(rank=32, alpha=64, experts=3, top_k=2)
ONE_LORA = replace(ADAPTERS, experts=1)

Outcome = dict[str, Any]


def selection(work: Workspace) -> Selection:
    """One selection for all methods: our mixed shapes, and the dynamic programme down to 16 layers."""
    folder = KEPT / "selection"
    if not (folder / "selection.json").is_file():
        chosen = select(
            work.model(),
            work.calibration_BT,
            SELECTION,
            KEPT / "metrics.json",
            progress_of("benchmark: selection"),
            work.width_text_WT(SELECTION.width_windows),
        )
        chosen.save(folder)
    return Selection.load(folder)


def shapes_of(method: str, work: Workspace, chosen: Selection) -> dict[int, AnyShape]:
    """The method's shape at every budget."""
    model = work.model()
    layers = model.config.num_hidden_layers
    if method in ("ours", "ours, one LoRA"):
        return {percent: chosen.mixed[percent].shape for percent in BUDGETS}
    if method == "uniform width":
        # A quarter of a layer is attention here, and stays.
        return {percent: Shape(layers, round((percent - 25) / 0.75)) for percent in BUDGETS}
    if method == "FLAP":
        return {percent: Shape(layers, percent) for percent in BUDGETS}
    by_count: Callable[[int], MixedShape] = {
        "dynamic programme": lambda count: _baselines.without(
            layers, [i for i in range(layers) if i not in chosen.choices[layers - count].layers]
        ),
        "ShortGPT": lambda count: _baselines.shortgpt(model, work.calibration_BT)(count),
        "one-shot perplexity": lambda count: _baselines.one_shot(model, work.calibration_BT)(count),
        "drop-middle": lambda count: _baselines.drop_middle(layers, count),
        "drop-last": lambda count: _baselines.drop_last(layers, count),
    }[method]
    return {percent: by_count(layers - round(layers * percent / 100)) for percent in BUDGETS}


METHODS = (
    "ours",
    "ours, one LoRA",
    "dynamic programme",
    "uniform width",
    "ShortGPT",
    "one-shot perplexity",
    "drop-middle",
    "drop-last",
    "FLAP",
)


def supernet_for(method: str, shapes: Mapping[int, AnyShape], work: Workspace, chosen: Selection) -> Supernet:
    """A supernet over just these shapes, in the order of falling size."""
    adapters = ONE_LORA if method == "ours, one LoRA" else ADAPTERS
    model, layers = work.model(), len(chosen.blocks.by_layer)
    widths = [shape.width_percent for shape in shapes.values() if isinstance(shape, Shape)]
    mixed = tuple(shape for shape in shapes.values() if isinstance(shape, MixedShape))
    space = ShapeSpace((layers,), (100, *widths), mixed)
    if method != "FLAP":
        return Supernet(model, chosen, space, adapters)
    sorted_model = work.model()
    permute_neurons(sorted_model, chosen.widths.neuron_order_LF)
    scores = _baselines.FlapScores(sorted_model, work.width_text_WT(SELECTION.width_windows))
    made = _baselines.FlapSupernet(model, chosen, space, ONE_LORA)
    made.flaps = {shape: scores.keep(percent / 100) for percent, shape in shapes.items()}
    return made


def quality(made: Supernet, shape: AnyShape, work: Workspace, questions: int) -> Outcome:
    with made.active(shape) as model:
        logits = logits_of(model)
        text = perplexity(logits, work.evaluation_windows)
        answers = multiple_choice(logits, work.data.questions[:questions])
    return {"perplexity": text.value, "nats": text.nats, "accuracy": answers.value, "correct": answers.correct}


def measure(method: str, steps: int, questions: int, work: Workspace) -> Outcome:
    """A method's three shapes before and after one fine-tune of them together."""
    chosen = selection(work)
    shapes = shapes_of(method, work, chosen)
    made = supernet_for(method, shapes, work, chosen)
    before = {percent: quality(made, shape, work, questions) for percent, shape in shapes.items()}
    after = {}
    if steps:
        train(made, steps, work, method)
        after = {percent: quality(made, shape, work, questions) for percent, shape in shapes.items()}
    used = usage_entropy(made.mixtures(list(shapes.values()))) / math.log(ADAPTERS.experts)
    named = {percent: str(shape) for percent, shape in shapes.items()}
    return {"shapes": named, "before": before, "after": after, "usage_entropy_of_the_most": used}


def measure_alone(percent: int, steps: int, questions: int, work: Workspace) -> Outcome:
    """Our shape at one budget with a fine-tune of its own: as many steps, every student this shape."""
    chosen = selection(work)
    shape = chosen.mixed[percent].shape
    space = ShapeSpace((len(chosen.blocks.by_layer),), (100,), (shape,))
    made = Supernet(work.model(), chosen, space, ONE_LORA)
    train(made, steps, work, f"{percent} % alone")
    return {"shapes": {percent: str(shape)}, "after": {percent: quality(made, shape, work, questions)}}


def train(made: Supernet, steps: int, work: Workspace, what: str) -> None:
    settings = replace(TRAINING, steps=steps)
    advance = progress(f"benchmark: {what}: fine-tune")
    checkpoint = KEPT / f"{what.replace(' ', '-')}-{steps}.safetensors"
    finetune(
        made,
        torch.from_numpy(work.data.train_WT),
        settings,
        checkpoint,
        lambda report: advance(report.step, steps),
    )
    checkpoint.unlink(missing_ok=True)


def once(name: str, make: Callable[[], Outcome]) -> Outcome:
    kept = KEPT / f"{name.replace(' ', '-').replace('%', '')}.json"
    if not kept.is_file():
        say(f"benchmark: {name}")
        replace_text(kept, json.dumps(make()))
    outcome: Outcome = json.loads(kept.read_text())
    return outcome


def ratio_interval(given: Sequence[float], wanted: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the perplexity ratio, as the gate has it."""
    worsening = of_likelihoods(wanted, given, 0.025)
    return 1 + worsening.low, 1 + worsening.high


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=0, help="of training; 0 measures without any")
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--alone", action="store_true", help="also train each of our shapes alone")
    parser.add_argument("--method", action="append", choices=METHODS, help="only these; may be repeated")
    given = parser.parse_args()
    work = Workspace.of()
    base = once(f"full {given.questions}", lambda: _full(work, given.questions))
    outcomes: dict[str, Outcome] = {}
    for method in given.method or METHODS:
        name = f"{method} {given.steps} {given.questions}"
        outcomes[method] = once(name, partial(measure, method, given.steps, given.questions, work))
    for percent in BUDGETS if given.alone else ():
        alone = partial(measure_alone, percent, given.steps, given.questions, work)
        outcomes[f"ours, {percent} % alone"] = once(f"{percent} % alone {given.steps} {given.questions}", alone)
    for when in ("before", "after"):
        print(
            f"\nPerplexity against the full model's {base['perplexity']:.2f}, accuracy {base['accuracy']:.1%}, {when}\n"
        )
        _record.table(
            ["method", *(f"{percent} %" for percent in BUDGETS)],
            [[name, *_cells(outcome, when, base, outcomes.get("ours"))] for name, outcome in outcomes.items()],
        )
    if "ours" in outcomes:
        print(
            f"\nOur experts' usage entropy: {outcomes['ours']['usage_entropy_of_the_most']:.2f} of the most there can be"
        )
    settings = {"selection": asdict(SELECTION), "training": asdict(TRAINING), "adapters": asdict(ADAPTERS)}
    _record.keep("methods", {"steps": given.steps, "settings": settings, "full": base, "outcomes": outcomes})


def _cells(outcome: Outcome, when: str, base: Outcome, ours: Outcome | None) -> list[str]:
    cells = []
    for percent in map(str, BUDGETS):
        found = outcome.get(when, {}).get(percent)
        if found is None:
            cells.append("")
            continue
        cell = f"{found['perplexity']:.1f} ({found['perplexity'] / base['perplexity']:.2f}x), {found['accuracy']:.0%}"
        reference = (ours or {}).get(when, {}).get(percent)
        if reference is not None and reference is not found:
            low, high = ratio_interval(found["nats"], reference["nats"])
            cell += f", {low:.2f}-{high:.2f} of ours"
        cells.append(cell)
    return cells


def _full(work: Workspace, questions: int) -> Outcome:
    model = work.model()
    logits = logits_of(model)
    text = perplexity(logits, work.evaluation_windows)
    answers = multiple_choice(logits, work.data.questions[:questions])
    return {"perplexity": text.value, "nats": text.nats, "accuracy": answers.value, "correct": answers.correct}


if __name__ == "__main__":
    main()
