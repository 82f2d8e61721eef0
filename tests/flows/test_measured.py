"""Which figures of a device are taken for a published version's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import edge_targets
from components.frontier import Point
from edge_targets._device import bench
from edge_targets._device.machine import Machine
from flows import bases, measured, tracking
from flows.measured import KIND, MeasurementError, record
from registry.manifest import FileEntry, Manifest

LATENCY = {
    "ttft_ms_samples": {"128": [169.0] * 3, "512": [700.0] * 3},
    "tpot_ms_samples": [9.0] * 3,
    "new_tokens": 32,
    "peak_memory_mb": 300.0,
}
MODEL = {"layers.data": "1" * 64, "tables.data": "2" * 64}
PHONES = {"iphone_arm64": "ios", "iphone_coreml": "ios", "android_arm64": "android", "android_vulkan": "android"}


@pytest.mark.parametrize("target", PHONES)
@pytest.mark.parametrize("system", ["linux", "android", "ios", "darwin", "win32"])
def test_a_phone_s_figures_are_a_phone_s_and_no_mac_s_of_the_same_processor(target: str, system: str) -> None:
    phone = edge_targets.load(target)
    if system == PHONES[target]:
        measured._check_device(phone, Machine(system, "aarch64"))
    else:
        with pytest.raises(
            MeasurementError, match=f"of another device than {target}: it is for {PHONES[target]} on aarch64"
        ):
            measured._check_device(phone, Machine(system, "aarch64"))


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_a_system_that_does_not_name_its_processor_s_instructions_is_believed_of_an_x86(system: str) -> None:
    measured._check_device(edge_targets.load("x86_avx512"), Machine(system, "x86_64"))
    with pytest.raises(MeasurementError, match="it is for x86_64, this is aarch64"):
        measured._check_device(edge_targets.load("x86_avx512"), Machine(system, "aarch64"))
    with pytest.raises(MeasurementError, match="it is for a Jetson Thor, this is no Jetson"):
        measured._check_device(edge_targets.load("jetson_thor"), Machine(system, "aarch64"))


class OneVersion:
    """A registry of one published version, a package of x86_avx2."""

    def __init__(self, measurement: dict[str, Any]) -> None:
        point = Point("d30w100", "int4", 22.0, 0.6, (0.5, 0.7), 169.0, 9.0, 300.0, 103.0, "host")
        files = tuple(FileEntry(path, 1, digest) for path, digest in sorted({**MODEL, "run.py": "3" * 64}.items()))
        facts = {"point": point.to_json(), "measurement": measurement}
        self._manifest = Manifest("package", "tiny", "x86_avx2", files, facts, {})
        self.taken: dict[str, bytes] = {}

    def models(self) -> tuple[str, ...]:
        return ("tiny--x86_avx2",)

    def versions(self, name: str) -> tuple[str, ...]:
        return ("1",)

    def manifest(self, version: str) -> Manifest:
        return self._manifest

    def attach(self, version: str, kind: str, content: bytes) -> None:
        self.taken[kind] = content


@pytest.fixture(params=["measured", "predicted"])
def published(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> OneVersion:
    """What ran here when it was published, and what was only inspected, for which `params.yaml` says what is asked."""
    ran = {"latency": LATENCY, "model_files": MODEL}
    inspected = {"package": {"context_length": 4096, "model_files": list(MODEL)}}
    registry = OneVersion(ran if request.param == "measured" else inspected)
    monkeypatch.setattr(tracking, "store", lambda: registry)
    monkeypatch.setattr(bases, "parameters", lambda: {"measure": {"new_tokens": 32}})
    return registry


def figures(folder: Path, latency: Any = LATENCY, model_files: Any = MODEL) -> Path:
    """A file of figures of a laptop."""
    file = folder / "bench.json"
    content = {
        "format_version": bench.FORMAT_VERSION,
        "target": "x86_avx2",
        "machine": Machine("linux", "x86_64", frozenset({"avx2", "fma"})).to_json(),
        "runs_on": "ONNX Runtime 1.28.0",
        "host": {"processor": "a laptop's"},
        "model_files": model_files,
        "latency": latency,
    }
    file.write_text(json.dumps(content))
    return file


def test_figures_after_the_published_prompts_become_the_version_s_own(published: OneVersion, tmp_path: Path) -> None:
    file = figures(tmp_path, {**LATENCY, "ttft_ms_samples": {"128": [50.0] * 3, "512": [220.0] * 3}})
    assert record(file).after.ttft_ms == 50
    assert published.taken == {KIND: file.read_bytes()}


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"ttft_ms_samples": {"2": [0.2] * 3}, "new_tokens": 60}, "60 new tokens after prompts of 2"),
        ({"ttft_ms_samples": {"2": [0.2] * 3}}, "32 new tokens after prompts of 2"),
        ({"ttft_ms_samples": {"128": [169.0] * 3}}, "32 new tokens after prompts of 128"),
        ({"new_tokens": 60}, "60 new tokens after prompts of 128 and 512"),
        ({"new_tokens": None}, "None new tokens after prompts of 128 and 512"),
    ],
)
def test_time_after_another_prompt_or_of_another_answer_than_the_published_is_refused(
    published: OneVersion, tmp_path: Path, changed: dict[str, Any], found: str
) -> None:
    wanted = "wanted are those of 32 new tokens after prompts of 128 and 512: run bench again with --new-tokens 32"
    with pytest.raises(MeasurementError, match=f"the figures are of {found}, {wanted}"):
        record(figures(tmp_path, {**LATENCY, **changed}))
    assert not published.taken


@pytest.mark.parametrize(
    "model_files", [{"tables.data": "2" * 64}, {**MODEL, "layers.data": "4" * 64}, {**MODEL, "run.py": "3" * 64}]
)
def test_what_was_measured_is_known_by_all_of_its_model_files_of_which_subnets_share_some(
    published: OneVersion, tmp_path: Path, model_files: dict[str, str]
) -> None:
    with pytest.raises(MeasurementError, match="no published version for x86_avx2 holds the model that was measured"):
        record(figures(tmp_path, model_files=model_files))
    assert not published.taken


@pytest.mark.parametrize(
    ("latency", "model_files", "said"),
    [
        ({**LATENCY, "ttft_ms_samples": {}}, MODEL, "no time to the first token by the prompt's length"),
        ({**LATENCY, "ttft_ms_samples": {"": [1.0] * 3}}, MODEL, "no time to the first token by the prompt's length"),
        (
            {**LATENCY, "ttft_ms_samples": {"many": [1.0] * 3}},
            MODEL,
            "no time to the first token by the prompt's length",
        ),
        ({**LATENCY, "ttft_ms_samples": [[1.0] * 3]}, MODEL, "this is no file of `amoeba bench`"),
        (LATENCY, list(MODEL), "the figures name no model files"),
        (LATENCY, {}, "the figures name no model files"),
    ],
)
def test_figures_of_another_form_are_refused_in_one_line(
    published: OneVersion, tmp_path: Path, latency: Any, model_files: Any, said: str
) -> None:
    with pytest.raises(MeasurementError, match=said):
        record(figures(tmp_path, latency, model_files))
    assert not published.taken
