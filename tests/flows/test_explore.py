"""A search over a real (tiny) supernet's options, with measurements that are made up: what is built, and what a stop leaves."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fixtures.tiny import make_model

import edge_targets
from components.exploration import Option
from components.frontier import Point
from components.selection import SelectionSettings, select
from components.shape import AnyShape, MixedShape, ShapeSpace
from components.smol import AdapterSettings
from components.supernet import Supernet
from flows import bases, calibrating, choosing, explore, exploring, frontier_document, measuring
from flows.bases import Declared
from flows.explore import measured
from flows.explored import Explored
from flows.exploring import Built, Ground, ground
from flows.frontier_document import document
from flows.retrying import RETRIES
from flows.settings import Settings
from flows.work import JobError, LostWorkerError

BASE = Declared("tiny", "./tiny", "0" * 64, "tiny")
TARGET = "x86_avx512"
NUMBERS = {"package": {"context_length": 64}, "verify": {"default": {"min_top_1": 0.8}, "int8": {"min_top_1": 0.9}}}
QUALITY = {
    "perplexity": {"value": 8.0, "nats": [2.0, 2.1]},
    "accuracy": {"value": 0.5, "interval": [0.4, 0.6], "correct": [True, False]},
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with a supernet of a grid and one mixed shape."""
    for module in (bases, choosing):
        monkeypatch.setattr(module, "parameters", lambda: NUMBERS)
    for module in (bases, calibrating):
        monkeypatch.setattr(module, "settings", lambda: Settings(workspace=tmp_path))
    monkeypatch.setattr(explore, "task", lambda **_: lambda function: function)  # no Prefect server for each
    monkeypatch.setattr(explore, "build_together", lambda search, most: set())
    monkeypatch.setattr(measuring, "reference", lambda base, folder: QUALITY)
    monkeypatch.setattr(frontier_document, "revision", lambda stage, base: f"{stage}.dir")
    model = make_model()
    tokens = torch.randint(2, 96, (4, 32), generator=torch.Generator().manual_seed(1))
    chosen = select(copy.deepcopy(model), tokens, SelectionSettings(2, 1, 4, "fluctuation", 32, budgets_percent=[70]))
    mixed = tuple(choice.shape for choice in chosen.mixed.values())
    made = Supernet(model, chosen, ShapeSpace((4, 2), (100, 50), mixed), AdapterSettings(2, 4))
    quality = {str(shape): 9.0 + 40 * (1 - shape.blocks / 20) for shape in made.space.all}
    made.save(BASE.artifacts / "supernet", {"validation_perplexity": quality})
    (tmp_path / "config.json").write_text(json.dumps(model.config.to_dict(), default=str))
    return tmp_path


class Machine:
    """Builds and measures at once, and keeps what it measured, as the workspace's cache does."""

    def __init__(self, patch: pytest.MonkeyPatch, fails: str = "", refuses: str = "", stops_after: int = 100) -> None:
        self.known: dict[str, Built] = {}
        self.fails, self.refuses, self.left = fails, refuses, stops_after
        patch.setattr(Ground, "build", lambda ground, option: self.build(ground, option))
        patch.setattr(
            Ground,
            "built",
            lambda ground: tuple(self.known[one.name] for one in ground.start.options if one.name in self.known),
        )

    def build(self, ground: Ground, option: Option) -> Built:
        if option.name in self.known:
            raise AssertionError(f"{option.name} is measured a second time")
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        if self.fails and self.fails in option.name:
            raise JobError(f"packaging {option.name} failed: the exporter ended")
        perplexity = 8 * math.exp(2 * option.outline.removed) * (1.02 if option.quantization == "int8" else 1.1)
        tpot_ms = 1 + 100 * option.load.read_mb
        point = Point(
            option.outline.name,
            option.quantization,
            perplexity,
            0.5,
            (0.4, 0.6),
            5 * tpot_ms,
            tpot_ms,
            100.0,
            9.0,
            "host",
        )
        latency = {"ttft_ms_samples": {"128": [point.ttft_ms] * 3}, "tpot_ms_samples": [tpot_ms] * 3}
        figures: dict[str, Any] = {**QUALITY, "latency": latency, "runtime": {"name": "onnxruntime", "version": "1"}}
        refused = "is too far from its float subnet" if self.refuses and self.refuses in option.name else None
        self.known[option.name] = Built(option, ground.choice(option), point, figures, refused)
        return self.known[option.name]


def test_every_shape_that_the_target_runs_is_an_option_in_every_quantization(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ground(BASE, folder, TARGET).start.options
    names = {option.outline.name for option in options}
    assert {"d4w100", "d2w50", "d3w75"} <= names
    assert any(name.startswith("h") for name in names)
    assert len(options) == 3 * len(names)

    def refuse(shape: AnyShape) -> str | None:
        return "layers that differ" if isinstance(shape, MixedShape) else None

    plain = replace(edge_targets.load(TARGET), refuses=refuse)
    monkeypatch.setattr(edge_targets, "load", lambda name: plain)
    alike = {option.outline.name for option in ground(BASE, folder, TARGET).start.options}
    assert alike == {name for name in names if name.startswith("d")}


def test_a_search_that_was_stopped_goes_on_and_measures_nothing_twice(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = ground(BASE, folder, TARGET)
    whole = Machine(monkeypatch)
    measured(start, 6)
    stopped = Machine(monkeypatch, stops_after=3)
    with pytest.raises(KeyboardInterrupt):
        measured(start, 6)
    assert len(stopped.known) == 3
    stopped.left = 100
    search = measured(start, 6)
    assert set(stopped.known) == set(whole.known)
    assert len(search.built) == 6


def test_what_was_measured_as_no_number_is_no_part_of_a_search_that_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = ground(BASE, folder, TARGET)
    first, second = start.start.options[:2]
    names = {(one.outline.name, one.quantization) for one in (first, second)}
    point = Point(first.outline.name, first.quantization, 9.0, 0.5, (0.4, 0.6), 5.0, 1.0, 100.0, 9.0, "host")

    def examine(base: Declared, choice: choosing.Choice) -> tuple[Point, dict[str, Any]]:
        if (str(choice.shape), choice.quantization) == (second.outline.name, second.quantization):
            raise measuring.NoNumberError("its perplexity is nan")
        return point, {}

    monkeypatch.setattr(measuring, "measured_names", lambda: names)
    monkeypatch.setattr(measuring, "is_measured", lambda base, choice: True)
    monkeypatch.setattr(measuring, "examine", examine)
    monkeypatch.setattr(measuring, "refusal", lambda choice, package, figures: None)
    monkeypatch.setattr(exploring.packaging, "package_for", lambda base, choice: folder)
    assert [one.option for one in start.built()] == [first]


def test_shapes_that_are_cut_alike_are_one_option_and_all_are_known_by_their_quality(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """128 neurons in multiples of 8: 98 % of them are 100 %."""
    model = make_model()
    tokens = torch.randint(2, 96, (4, 32), generator=torch.Generator().manual_seed(1))
    chosen = select(copy.deepcopy(model), tokens, SelectionSettings(2, 1, 4, "fluctuation", 32))
    made = Supernet(model, chosen, ShapeSpace((4, 2), (100, 98)), AdapterSettings(2, 4))
    made.save(BASE.artifacts / "supernet", {"validation_perplexity": {str(shape): 9.0 for shape in made.space.all}})
    start = ground(BASE, folder, TARGET).start
    names = {option.outline.name for option in start.options}
    assert "d4w100" in names
    assert "d4w98" not in names
    assert len(start.prior.known) == len(made.space.all) + 1


def test_a_search_for_more_points_keeps_all_that_a_smaller_one_had(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, machine = ground(BASE, folder, TARGET), Machine(monkeypatch)
    few = {one.option.name for one in measured(start, 3).built}
    assert few < {one.option.name for one in measured(start, 6).built}
    assert len(machine.known) == 6
    assert len(measured(start, 2).built) == 6


def test_what_was_built_together_is_not_built_again_before_its_turn(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Machine(monkeypatch)
    together: list[set[Option]] = []

    def build(search: exploring.Search, most: int) -> set[Option]:
        together.append({forecast.option for forecast in search.exploration.likely(most)})
        return together[-1]

    monkeypatch.setattr(explore, "build_together", build)
    search = measured(ground(BASE, folder, TARGET), 6)
    assert {one.option for one in search.built} <= set().union(*together)
    assert len(together) < 6


def test_what_cannot_be_built_counts_and_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Machine(monkeypatch, fails="d4w100")
    search = measured(ground(BASE, folder, TARGET), 5)
    assert search.tried == 5
    assert search.failed
    assert "the exporter ended" in capsys.readouterr().err
    reasons = {f"{one.shape} {one.quantization}": one.reason for one in document(search, versions(search)).considered}
    assert all("could not be built" in reasons[option.name] for option in search.failed)


def test_a_quantization_of_which_nothing_can_be_built_does_not_take_the_others_turns(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Machine(monkeypatch, fails="int4")
    search = measured(ground(BASE, folder, TARGET), 8)
    assert search.failed
    assert len(search.built) >= 4


def test_a_frontier_is_published_where_nothing_of_one_quantization_could_be_built(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = ground(BASE, folder, TARGET)
    few = replace(start, start=replace(start.start, options=start.start.options[:9]))
    Machine(monkeypatch, fails="int4")
    search = measured(few, 9)
    reasons = [one.reason for one in document(search, versions(search)).considered if one.quantization == "int4"]
    assert len(reasons) == len(search.failed) == 3
    assert all("the exporter ended" in reason for reason in reasons)


def test_a_candidate_whose_process_was_killed_is_tried_again_and_not_given_up(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    def task(**options: Any) -> Any:
        given.update(options)
        return lambda function: function

    def lose(ground: Ground, option: Option) -> Built:
        raise LostWorkerError(f"packaging {option.name} failed: its process was killed by signal 9")

    Machine(monkeypatch)
    monkeypatch.setattr(explore, "task", task)
    monkeypatch.setattr(Ground, "build", lose)
    with pytest.raises(LostWorkerError, match="signal 9"):
        measured(ground(BASE, folder, TARGET), 3)
    assert RETRIES.items() <= given.items()


def test_what_is_refused_is_no_member_and_the_document_says_why(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch, refuses="int4")
    explored = document(search := measured(ground(BASE, folder, TARGET), 8), versions(search))
    assert {member.point.quantization for member in explored.members} <= {"int8", "fp32"}
    refused = [one for one in explored.considered if "too far from its float subnet" in one.reason]
    assert refused
    assert all(one.point is not None for one in refused)


def test_the_document_holds_every_option_once_and_reads_as_it_was_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Machine(monkeypatch)
    start = ground(BASE, folder, TARGET)
    explored = document(search := measured(start, 6), versions(search))
    named = [(one.point.shape, one.point.quantization) for one in explored.members]
    named += [(one.shape, one.quantization) for one in explored.considered]
    assert sorted(named) == sorted((one.outline.name, one.quantization) for one in start.start.options)
    assert Explored.from_json(explored.to_json()) == explored
    times = [member.point.tpot_ms for member in explored.members]
    assert times == sorted(times)
    assert all(member.predicted.machine == "host" for member in explored.members)


def test_where_nothing_holds_nothing_is_published(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch, refuses="d")
    monkeypatch.setattr(explore, "_production", lambda *_: pytest.fail("asked the registry"))
    start = ground(BASE, folder, TARGET)
    only = replace(start, start=replace(start.start, options=start.start.options[:3]))
    with pytest.raises(JobError, match=r"no package holds what was predicted of it: d4w100 .* is too far"):
        explore.publish_frontier(None, measured(only, 3))  # type: ignore[arg-type]


def test_where_nothing_can_be_built_it_is_told_why(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch, fails="d")
    search = measured(ground(BASE, folder, TARGET), 2)
    with pytest.raises(JobError, match=r"could not be built: .*the exporter ended; .*could not be built: "):
        explore.publish_frontier(None, search)  # type: ignore[arg-type]


def versions(search: exploring.Search) -> list[str]:
    return [str(number) for number, _ in enumerate(search.members, 1)]
