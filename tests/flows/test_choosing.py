"""What a target is offered: every shape it runs, and none that it refuses."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fixtures.tiny import make_model

import edge_targets
from components.calibration import Calibration
from components.latency import Cost
from components.search import Candidate, choose
from components.selection import SelectionSettings, select
from components.shape import AnyShape, MixedShape, ShapeSpace, parse_shape
from components.smol import AdapterSettings
from components.supernet import Supernet
from edge_targets._target import Budget
from flows import bases, calibrating, choosing, package
from flows.bases import Declared
from flows.settings import Settings
from flows.work import JobError

BASE = Declared("tiny", "./tiny", "0" * 64, "tiny")
NUMBERS = {"package": {"context_length": 64}, "verify": {"default": {"min_top_1": 0.8}, "int8": {"min_top_1": 0.9}}}


@pytest.fixture
def base_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with a supernet of a grid and one mixed shape, which is the best of all."""
    for module in (bases, choosing):
        monkeypatch.setattr(module, "parameters", lambda: NUMBERS)
    monkeypatch.setattr(bases, "settings", lambda: Settings(workspace=tmp_path))
    model = make_model()
    tokens = torch.randint(2, 96, (4, 32), generator=torch.Generator().manual_seed(1))
    numbers = SelectionSettings(2, 1, 4, "fluctuation", 32, budgets_percent=[70])
    chosen = select(copy.deepcopy(model), tokens, numbers)
    mixed = tuple(choice.shape for choice in chosen.mixed.values())
    made = Supernet(model, chosen, ShapeSpace((4, 2), (100,), mixed), AdapterSettings(2, 4))
    quality = {str(shape): 5.0 if shape in mixed else 9.0 for shape in made.space.all}
    made.save(BASE.artifacts / "supernet", {"validation_perplexity": quality})
    (tmp_path / "config.json").write_text(json.dumps(model.config.to_dict(), default=str))
    return tmp_path


def refuse_mixed(shape: AnyShape) -> str | None:
    return "its runtime takes layers that are alike" if isinstance(shape, MixedShape) else None


def test_a_mixed_shape_is_chosen_where_it_is_best(base_folder: Path) -> None:
    assert isinstance(choosing.choose_for(BASE, base_folder, "x86_avx512").shape, MixedShape)


def test_a_target_that_cannot_run_mixed_shapes_is_offered_none(
    base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = replace(edge_targets.load("x86_avx512"), refuses=refuse_mixed)
    monkeypatch.setattr(edge_targets, "load", lambda name: plain)
    choice = choosing.choose_for(BASE, base_folder, "x86_avx512")
    offered = {verdict.candidate.shape for verdict in choice.verdicts}
    assert not any(isinstance(shape, MixedShape) for shape in offered)


def test_a_target_that_runs_no_shape_at_all_says_why(base_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    none = replace(edge_targets.load("x86_avx512"), refuses=lambda shape: "it has no memory")
    monkeypatch.setattr(edge_targets, "load", lambda name: none)
    with pytest.raises(JobError, match=r"runs no shape of this supernet: .*d4w100: it has no memory"):
        choosing.choose_for(BASE, base_folder, "x86_avx512")


def test_a_choice_that_does_not_hold_gives_way_to_the_next_best(base_folder: Path) -> None:
    first = choosing.choose_for(BASE, base_folder, "x86_avx512")
    second = choosing.next_best(first, "disagrees")
    assert (second.shape, second.quantization) != (first.shape, first.quantization)
    assert [verdict.reason for verdict in second.built] == ["built, and disagrees"]
    assert [verdict.reason for verdict in second.verdicts].count("chosen") == 1
    chosen = next(verdict.candidate for verdict in second.verdicts if verdict.reason == "chosen")
    better = [one for one in first.verdicts if one.candidate.perplexity < chosen.perplexity]
    assert all(one.reason != "higher perplexity" for one in better)


def test_after_a_quantization_that_was_too_far_from_float_comes_another(base_folder: Path) -> None:
    choice = choosing.choose_for(BASE, base_folder, "x86_avx512")
    tried = [choice.quantization]
    for _ in range(2):
        choice = choosing.next_best(choice, f"{choosing.TOO_FAR}: top_1 0.6")
        tried.append(choice.quantization)
    fit = {one.candidate.quantization for one in choice.verdicts if one.reason not in ("chosen",)}
    assert len(fit) > 1
    assert len(set(tried)) > 1
    assert tried[1] != tried[0]


def test_what_was_passed_over_for_its_quantization_is_told_so_and_is_built_where_nothing_else_is_left() -> None:
    ranked = [("d4w100", "int8", 20.0), ("d4w100", "int4", 21.0), ("d3w100", "int4", 25.0), ("d2w100", "int8", 40.0)]
    candidates = [
        Candidate(parse_shape(shape), quantization, perplexity, Cost(90.0, 8.0, 120.0, 250.0))
        for shape, quantization, perplexity in [*ranked, ("d2w50", "int8", 50.0)]
    ]
    chosen, verdicts = choose(candidates, None, None)
    first = choosing.Choice("x86_avx512", chosen.shape, chosen.quantization, 64, 1000.0, verdicts)
    fallen = choosing.next_best(choosing.next_best(first, "disagrees"), f"{choosing.TOO_FAR}: top_1 0.6")
    assert [one.reason for one in fallen.verdicts] == [
        "built, and disagrees",
        "built, and is too far from its float subnet: top_1 0.6",
        "passed over: another shape in its quantization is too far from float",
        "chosen",
        "higher perplexity",
    ]
    last = choosing.next_best(choosing.next_best(fallen, "disagrees"), "disagrees")
    assert (str(last.shape), last.quantization) == ("d3w100", "int4")


def test_a_target_for_which_nothing_holds_says_every_reason(base_folder: Path) -> None:
    choice = choosing.choose_for(BASE, base_folder, "x86_avx512")
    for verdict in choice.verdicts[1:]:
        if verdict.reason == "higher perplexity":
            choice = choosing.next_best(choice, "disagrees")
    with pytest.raises(JobError, match=r"nothing holds what was predicted of it: .*built, and disagrees"):
        choosing.next_best(choice, "disagrees")


@pytest.fixture
def refusals(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """What is wrong with each package in turn; each measures as its own name."""
    waiting: list[str | None] = []
    monkeypatch.setattr(package.packaging, "package_for", lambda base, choice: Path(str(choice.shape)))
    monkeypatch.setattr(package.measuring, "examine", lambda base, choice: (str(choice.shape), {"of": choice.shape}))
    monkeypatch.setattr(package.measuring, "refusal", lambda choice, folder, figures: waiting.pop(0))
    return waiting


def test_what_is_published_is_the_first_package_that_is_what_was_predicted_of_it(
    base_folder: Path, refusals: list[str | None]
) -> None:
    first = choosing.choose_for(BASE, base_folder, "x86_avx512")
    refusals += ["disagrees", None]
    confirmed, point, figures = package.confirmed(BASE, first)
    assert (confirmed.shape, confirmed.quantization) != (first.shape, first.quantization)
    assert (point, figures) == (str(confirmed.shape), {"of": confirmed.shape})
    assert [one.reason for one in confirmed.built] == ["built, and disagrees"]


def test_a_package_that_answers_with_no_number_gives_way_to_the_next_best(
    base_folder: Path, refusals: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = choosing.choose_for(BASE, base_folder, "x86_avx512")
    examine = package.measuring.examine

    def broken(base: Declared, choice: choosing.Choice) -> Any:
        if choice.quantization == first.quantization:
            raise package.measuring.NoNumberError(f"{choosing.TOO_FAR}: its perplexity is nan")
        return examine(base, choice)

    monkeypatch.setattr(package.measuring, "examine", broken)
    refusals += [None]
    confirmed, *_ = package.confirmed(BASE, first)
    assert confirmed.quantization != first.quantization
    assert [one.reason for one in confirmed.built] == [f"built, and {choosing.TOO_FAR}: its perplexity is nan"]


def test_of_a_target_whose_packages_are_all_refused_nothing_is_published(
    base_folder: Path, refusals: list[str | None]
) -> None:
    first = choosing.choose_for(BASE, base_folder, "x86_avx512", Budget(max_tpot_ms=100.0))
    wrong = ["disagrees", "has no file", "is too large"]
    refusals += wrong
    with pytest.raises(JobError, match="nothing was published: ") as told:
        package.confirmed(BASE, first)
    assert refusals == []
    assert all(f"built, and {reason}" in str(told.value) for reason in wrong)


def test_a_choice_for_this_host_is_made_on_what_ran_here_and_says_so(base_folder: Path) -> None:
    slow = Calibration((0.0, 0.0, 0.0, 5.0), (0.0, 0.0, 1.0, 1.0), (0.0, 0.0, 0.0, 100.0), 1)
    fast = Calibration((0.0, 0.0, 0.0, 5.0), (0.0, 0.0, 0.1, 0.1), (0.0, 0.0, 0.0, 100.0), 1)
    here = {"int8": slow, "int4": fast, "fp32": slow}
    choice = choosing.choose_for(BASE, base_folder, "x86_avx512", Budget(max_tpot_ms=1.0), here)
    assert choice.quantization == "int4"
    assert {verdict.candidate.cost.machine for verdict in choice.verdicts} == {"host"}
    usual = choosing.choose_for(BASE, base_folder, "x86_avx512")
    assert {verdict.candidate.cost.machine for verdict in usual.verdicts} == {"device"}


def test_what_ran_here_is_kept_for_this_host_and_for_no_other(
    base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrating, "settings", lambda: Settings(workspace=base_folder))
    known = {"int8": Calibration((1.0, 2.0, 3.0, 4.0), (1.0, 2.0, 3.0, 4.0), (1.0, 2.0, 3.0, 4.0), 3)}
    assert calibrating.kept(BASE, "x86_avx512") is None
    calibrating.keep(BASE, "x86_avx512", known)
    assert calibrating.kept(BASE, "x86_avx512") == known
    assert calibrating.kept(BASE, "x86_avx2") == known  # one family: the same packages
    monkeypatch.setattr(calibrating, "host", lambda: {"processor": "another"})
    assert calibrating.kept(BASE, "x86_avx512") is None
