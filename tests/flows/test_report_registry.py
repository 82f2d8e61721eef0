"""What a report takes from a registry: real manifests and documents in a real MLflow, nothing built or measured."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fixtures.artifacts import kept

from components.frontier import Point
from components.latency import Cost
from components.search import Candidate, choose
from components.shape import parse_shape
from edge_targets._device import bench
from edge_targets._device.machine import Machine
from flows import considered, explored, reference, tracking
from flows.choosing import Choice
from flows.explored import Considered, Explored, Predicted, Reference
from flows.report import figures
from flows.report import gather as gathering
from flows.report.gather import UnreadableError, gather
from flows.report.make import write
from registry.errors import NotFoundError
from registry.manifest import MANIFEST_FILE, Manifest
from registry.store import Store, Version

FULL_NATS = [3.0, 3.2, 2.9]
LINEAGE = {
    "data_revision": "data.dir",
    "base_source": "tiny",
    "base_licence": "apache-2.0",
    "supernet_revision": "net.dir",
}
SELECTION = {"blocks": [{}] * 4, "choices": {"4": {"layers": [0, 1, 2, 3]}, "3": {"layers": [0, 1, 3]}}}
CURVE = {
    "train": [],
    "validation": [{"step": 3, "perplexity": {"d4w100": 21.0}}, {"step": 0, "perplexity": {"d4w100": 25.0}}],
}
HOST = {"processor": "a processor", "cores": 2, "machine": "x86_64", "system": "Linux"}


def figures_of(point: Point, worse: float = 0.1, processor: str = "a processor") -> dict[str, Any]:
    """A measurement whose medians are the point's."""
    around = [point.tpot_ms * share for share in (0.9, 0.95, 1.0, 1.0, 1.0, 1.05, 1.1)]
    return {
        "latency": {"tpot_ms_samples": around, "ttft_ms_samples": {"128": [point.ttft_ms] * 7}, "threads": 2},
        "perplexity": {"value": point.perplexity, "nats": [nats + worse for nats in FULL_NATS]},
        "accuracy": {
            "value": 0.5,
            "interval": [0.2, 0.8],
            "correct": [True, False, True, False],
            "tasks": ["a", "b"] * 2,
        },
        "host": {**HOST, "processor": processor},
        "runtime": {"name": "onnxruntime", "version": "1.31.1"},
    }


def point(shape: str = "d4w100", tpot_ms: float = 8.0, worse: float = 0.1, **changed: Any) -> Point:
    perplexity = math.exp(sum(FULL_NATS) / 3 + worse)
    made = Point(shape, "int8", perplexity, 0.5, (0.2, 0.8), 100.0, tpot_ms, 300.0, 130.0, "host")
    return replace(made, **changed)


_numbers = itertools.count()
Publish = Callable[..., Version]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("registry")
    return Store(f"sqlite:///{folder}/mlflow.db", str(folder / "artifacts"))


@pytest.fixture
def model() -> str:
    """A base of the test's own."""
    return f"tiny{next(_numbers)}"


@pytest.fixture
def publish(registry: Store, model: str, tmp_path: Path) -> Publish:
    """Publish a package of a point, or the supernet where there is none."""

    def published(
        made: Point | None,
        alias: str = "production",
        measurement: Any = None,
        target: str = "x86_avx512",
        **lineage: str,
    ) -> Version:
        folder = tmp_path / f"artifact{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        if made is None:
            for name, content in (("selection", SELECTION), ("curve", CURVE), ("supernet", {})):
                (folder / f"{name}.json").write_text(json.dumps(content))
            facts: dict[str, Any] = {"validation_perplexity": {}}
        else:
            (folder / "package.json").write_text(json.dumps(package(made)))
            (folder / "model.onnx").write_text(folder.name)
            facts = {"point": made.to_json(), "measurement": measurement or figures_of(made)}
        manifest = Manifest.of(
            folder,
            kind="package" if made else "supernet",
            model=model,
            target=target if made else None,
            facts=facts,
            lineage={**LINEAGE, **lineage},
        )
        name = f"{model}--{target}" if made else model
        registry.publish(folder, manifest, registered_model=name, alias=alias)
        return registry.resolve(name, alias)

    return published


def package(made: Point) -> dict[str, Any]:
    return {
        "format_version": 2,
        "target": "x86_avx512",
        "runtime": {"name": "onnxruntime", "version": "1.31.1"},
        "runner": "onnxruntime_runner",
        "shape": made.shape,
        "quantization": made.quantization,
        "context_length": 192,
        "vocab_size": 96,
        "eos_token_ids": [1],
        "model_files": ["model.onnx"],
        "memory_mb": {"weights": 99.5, "kv_cache": 18.7},
    }


def document(model: str, left: Sequence[Considered], threads: int = 2) -> Explored:
    """A search that put nothing but `left` beside what is published."""
    return Explored(
        model,
        "x86_avx512",
        "data.dir",
        "net.dir",
        {**HOST, "threads": threads, "runtime": {"name": "onnxruntime", "version": "1.31.1"}},
        Reference(20.0, 0.5, (0.2, 0.8), tuple(FULL_NATS), (True, False)),
        (),
        tuple(left),
    )


@pytest.fixture
def supernet(registry: Store, publish: Publish) -> Version:
    version = publish(None)
    full = {
        "perplexity": {"value": math.exp(sum(FULL_NATS) / 3), "nats": FULL_NATS},
        "accuracy": {
            "value": 0.75,
            "interval": [0.3, 0.95],
            "correct": [True, True, True, False],
            "tasks": ["a", "b"] * 2,
        },
    }
    reference.keep(registry, version, full)
    return version


@pytest.mark.usefixtures("supernet")
def test_a_release_is_told_with_every_figure_of_its_manifest(registry: Store, model: str, publish: Publish) -> None:
    publish(point())
    found = gather(registry, model)
    assert (found.source, found.licence) == ("tiny", "apache-2.0")
    assert found.full is not None
    assert [(task.name, task.right, task.asked) for task in found.full.tasks] == [("a", 2, 2), ("b", 1, 2)]
    (target,) = found.targets
    (release,) = target.releases
    assert (release.weights_mb, release.kv_cache_mb, release.context_length) == (99.5, 18.7, 192)
    assert release.machine == "a processor, 2 threads, onnxruntime 1.31.1"
    assert [step.step for step in release.lineage][-1] == "manifest"
    (spot,) = target.spots
    assert (spot.version, spot.aliases, spot.undominated) == ("1", ("production",), True)
    assert spot.tpot_ms.interval == (8.0 * 0.9, 8.0 * 1.1)
    assert spot.perplexity is not None
    assert spot.perplexity.interval == pytest.approx(
        (spot.perplexity.value,) * 2
    )  # always as much worse as the full model
    assert [curve.perplexity for curve in found.curves] == [((0, 25.0), (3, 21.0))]
    assert [(shape.shape, shape.used_by) for shape in found.shapes] == [("d4w100", ("x86_avx512 production",))]


@pytest.mark.usefixtures("supernet")
def test_what_is_in_production_is_told_however_many_versions_are_newer(
    registry: Store, model: str, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    for alias in ("production", "candidate", "other", "another"):
        publish(point(), alias=alias)
    monkeypatch.setattr(gathering, "_MOST_VERSIONS", 1)
    (target,) = gather(registry, model).targets
    assert [release.alias for release in target.releases] == ["production", "candidate"]
    assert "1 older versions" in target.left_out


@pytest.mark.usefixtures("supernet")
def test_what_cannot_be_compared_is_left_out_of_the_plane_and_told(
    registry: Store, model: str, publish: Publish
) -> None:
    publish(point(tpot_ms=9.0), measurement=figures_of(point(tpot_ms=9.0), processor="another"))
    publish(point("d3w100", tpot_ms=7.0, worse=0.3), data_revision="older.dir")
    publish(point(tpot_ms=8.0))
    (target,) = gather(registry, model).targets
    assert [spot.version for spot in target.spots] == ["3"]
    assert target.left_out == (
        "version 2: its quality is of another text than the full model's",
        "version 1: its times are of another machine (another, 2 threads, onnxruntime 1.31.1)",
    )
    assert [release.alias for release in target.releases] == ["production", "previous"]


@pytest.mark.usefixtures("supernet")
@pytest.mark.parametrize("lost", [MANIFEST_FILE, "package.json"])
def test_a_version_that_is_not_whole_is_left_out_and_told(
    lost: str, registry: Store, model: str, publish: Publish
) -> None:
    publish(point())
    (kept(publish(point("d3w100"))) / lost).unlink()
    (target,) = gather(registry, model).targets
    assert [release.alias for release in target.releases] == ["previous"]
    assert [spot.version for spot in target.spots] == ["1"]
    (told,) = target.left_out
    assert told.startswith(f"version 2: the registry no longer holds {lost}")


@pytest.mark.usefixtures("supernet")
def test_what_a_device_measured_stands_beside_what_the_host_did_and_neither_beats_the_other(
    registry: Store, model: str, publish: Publish
) -> None:
    publish(point(tpot_ms=20.0))
    version = publish(point(tpot_ms=8.0))
    device = {
        **figures_of(point(tpot_ms=40.0), processor="a phone"),
        "format_version": bench.FORMAT_VERSION,
        "target": "x86_avx512",
        "machine": Machine("linux", "x86_64", frozenset({"avx512f", "avx512_vnni"})).to_json(),
        "runs_on": "ONNX Runtime 1.31.1",
        "model_files": {"model.onnx": "0" * 64},
    }
    device["latency"]["peak_memory_mb"] = 200.0
    registry.attach(version, "measurement", json.dumps(device).encode())
    (target,) = gather(registry, model).targets
    assert [(spot.measured_on, spot.tpot_ms.value, spot.undominated) for spot in target.spots] == [
        ("host", 20.0, True),
        ("device", 40.0, True),
    ]


@pytest.mark.usefixtures("supernet")
def test_a_dominated_version_is_marked(registry: Store, model: str, publish: Publish) -> None:
    publish(point(tpot_ms=9.0, worse=0.2))
    publish(point(tpot_ms=8.0))
    (target,) = gather(registry, model).targets
    assert [(spot.version, spot.undominated) for spot in target.spots] == [("2", True), ("1", False)]


@pytest.mark.usefixtures("supernet")
def test_what_a_search_left_stands_beside_the_versions_of_a_machine_with_one_core_too(
    registry: Store, model: str, publish: Publish
) -> None:
    figures = figures_of(point())
    figures["latency"]["threads"] = 1
    version = publish(point(), measurement=figures)
    predicted = Predicted(30.0, 6.0, 70.0, 250.0, "host")
    left = Considered("d3w100", "int8", predicted, "measured, and beaten", point("d3w100", 9.0, 0.4))
    registry.attach(version, explored.KIND, document(model, [left], threads=1).to_json())
    (target,) = gather(registry, model).targets
    assert [spot.shape for spot in target.spots] == ["d4w100", "d3w100"]
    assert target.left_out == ()


@pytest.mark.usefixtures("supernet")
def test_a_search_s_frontier_adds_what_it_measured_and_what_it_predicted_for_that_machine(
    registry: Store, model: str, publish: Publish
) -> None:
    version = publish(point())
    beside = [
        Considered(
            "d3w100",
            "int8",
            Predicted(30.0, 6.0, 70.0, 250.0, "host"),
            "measured, and beaten",
            point("d3w100", 9.0, 0.4),
        ),
        Considered("d2w100", "int8", Predicted(40.0, 5.0, 60.0, 200.0, "host"), "not measured"),
        Considered("d2w50", "int8", Predicted(50.0, 1.0, 10.0, 100.0, "device"), "not measured"),
    ]
    registry.attach(version, explored.KIND, document(model, beside).to_json())
    (target,) = gather(registry, model).targets
    assert [(spot.shape, spot.measured_on, spot.version) for spot in target.spots] == [
        ("d2w100", "predicted", None),
        ("d4w100", "host", "1"),
        ("d3w100", "host", None),
    ]
    assert target.spots[0].machine == "host"
    assert [(one.shape, one.machine) for one in target.explored] == [
        ("d3w100", "host"),
        ("d2w100", "host"),
        ("d2w50", "device"),
    ]


@pytest.mark.usefixtures("supernet")
def test_why_a_release_was_chosen_is_kept_once_and_read_back(registry: Store, model: str, publish: Publish) -> None:
    version = publish(point())
    candidates = [
        Candidate(parse_shape(shape), "int8", perplexity, Cost(90.0, time, 120.0, 250.0))
        for shape, perplexity, time in (("d4w100", 20.0, 8.0), ("d3w100", 30.0, 6.0))
    ]
    _, verdicts = choose(candidates, None, None)
    choice = Choice("x86_avx512", parse_shape("d4w100"), "int8", 192, 1000.0, verdicts)
    considered.keep(registry, version, choice)
    noted = registry.resolve(f"{model}--x86_avx512").tags
    considered.keep(registry, registry.resolve(f"{model}--x86_avx512"), choice)
    assert registry.resolve(f"{model}--x86_avx512").tags == noted
    (target,) = gather(registry, model).targets
    assert [(one.shape, one.reason, one.chosen) for one in target.releases[0].considered] == [
        ("d4w100", "chosen", True),
        ("d3w100", "higher perplexity", False),
    ]


def test_a_model_that_is_not_there_is_told_with_what_is(registry: Store, model: str, supernet: Version) -> None:
    with pytest.raises(NotFoundError, match=f"did you mean {model}"):
        gather(registry, f"{model}-2")


def test_packages_without_a_supernet_are_told_without_shapes_and_training(
    registry: Store, model: str, publish: Publish
) -> None:
    publish(point())
    found = gather(registry, model)
    assert (found.full, found.shapes, found.curves) == (None, (), ())
    assert found.targets[0].spots[0].perplexity is not None
    assert found.targets[0].spots[0].perplexity.interval is None


@pytest.mark.usefixtures("supernet")
def test_what_another_version_wrote_is_told_and_not_a_fault(registry: Store, model: str, publish: Publish) -> None:
    publish(point(), measurement={"latency": {"samples": []}})
    with pytest.raises(
        UnreadableError, match=f"has of {model} is not as this version writes it .KeyError 'tpot_ms_samples'"
    ):
        gather(registry, model)


@pytest.mark.parametrize(
    "content",
    [b"{}", b"[]", b'{"format_version": 7}', b"\xff", b'{"format_version": 1, "candidates": [{}]}', b"[" * 10_000],
)
def test_a_document_that_says_no_choice_or_no_figures_is_refused(
    registry: Store, model: str, supernet: Version, publish: Publish, content: bytes
) -> None:
    package_version = publish(point())
    registry.attach(supernet, reference.KIND, content)
    registry.attach(package_version, considered.KIND, content)
    with pytest.raises(reference.FullModelError):
        reference.of(registry, registry.resolve(model))
    with pytest.raises(considered.ChoiceError):
        considered.considered_for(registry, registry.resolve(f"{model}--x86_avx512"))


def test_page_drawings_and_figures_lie_beside_the_supernet_s_run_once(
    registry: Store, model: str, supernet: Version, publish: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(point())
    monkeypatch.setattr("flows.report.make._workspace", lambda: None)
    found = gather(registry, model)
    done = write(registry, found, tmp_path / "report")
    client = registry.client()
    logged = {file.path for file in client.list_artifacts(supernet.run_id, "report")}
    assert done.logged
    assert logged == {f"report/{path.name}" for path in (tmp_path / "report").iterdir()}
    assert {"report/index.html", "report/perplexity-x86_avx512.svg", "report/training.svg"} <= logged
    run = client.get_run(supernet.run_id).data
    assert run.metrics["x86_avx512.production.tpot_ms"] == 8.0
    write(registry, found, tmp_path / "report")
    assert len(client.get_metric_history(supernet.run_id, "x86_avx512.production.tpot_ms")) == 1
    assert not tracking.log_report(registry, "nobody", {}, {})


@pytest.mark.usefixtures("supernet")
def test_two_reports_of_one_registry_are_the_same_bytes(
    registry: Store, model: str, publish: Publish, tmp_path: Path
) -> None:
    publish(point())
    for name in ("one", "two"):
        write(registry, gather(registry, model), tmp_path / name, log=False)
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two
    assert figures.metrics(gather(registry, model)) == figures.metrics(gather(registry, model))
