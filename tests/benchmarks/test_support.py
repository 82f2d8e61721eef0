"""The support matrix is of every target there is, and an attempt cannot pass with a wrong answer."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import edge_targets
from benchmarks import _attempts, support
from benchmarks._attempts import CASES, Case, Outcome, attempt
from edge_targets._target import Package, PackageRequest, Target

BY_TITLE = {case.title: case for case in CASES}


def tried(title: str, target: Target, quantization: str) -> Outcome:
    return attempt(BY_TITLE[title], target, target.quantization(quantization))


def test_the_committed_document_is_of_every_target_and_every_kind_of_shape() -> None:
    text = support.DOCUMENT.read_text()
    sections = re.split(r"^## (\w+)$", text, flags=re.MULTILINE)
    assert tuple(sections[1::2]) == edge_targets.names(), "run python -m benchmarks.support again"
    for name, section in zip(sections[1::2], sections[2::2], strict=True):
        for case in CASES:
            assert f"| {case.title} |" in section, f"{name} has no row {case.title!r}"
        for quantization in edge_targets.load(name).quantizations:
            assert f" {quantization.name} |" in section
    assert "WRONG" not in text


def test_layers_that_differ_work_on_x86() -> None:
    assert tried("Llama, layers that differ", edge_targets.load("x86_avx512"), "int8") == Outcome("works")


def test_a_width_that_groups_do_not_divide_is_refused_with_the_nearest() -> None:
    outcome = tried("Llama, FFN of 40 neurons", edge_targets.load("android_arm64"), "8da4w")
    assert outcome.verdict == "refused"
    assert "intermediate_size is 40" in outcome.reason
    assert "nearest width is 32" in outcome.reason


def test_a_package_of_other_weights_is_wrong(tmp_path: Path) -> None:
    target = edge_targets.load("x86_avx512")
    other = tmp_path / "other"
    _attempts.write(Case("other", tied=False), other)

    def package(request: PackageRequest, out: Path) -> Package:
        return target.package(replace(request, checkpoint=other), out)

    outcome = tried("Llama, tied head", replace(target, package=package), "int8")
    assert outcome.verdict == "WRONG"
    assert "away from torch's" in outcome.reason


def test_a_traceback_is_wrong_and_no_refusal() -> None:
    def package(request: PackageRequest, out: Path) -> Package:
        raise KeyError("layers")

    outcome = tried("Llama, tied head", replace(edge_targets.load("x86_avx512"), package=package), "int8")
    assert outcome == Outcome("WRONG", "KeyError: 'layers'")


def test_a_cache_that_forgets_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgetful:
        """Writes what follows the first token of the text, whatever else is in it."""

        def __init__(self, runner: Any) -> None:
            self.logits, self._generate = runner.logits, runner.generate

        def generate(self, tokens: Any, *count: int, **options: bool) -> Any:
            return self._generate(tokens[:1], *count, **options)

    load = _attempts.facts.load
    monkeypatch.setattr(_attempts.facts, "load", lambda folder, threads: Forgetful(load(folder, threads)))
    outcome = tried("Llama, head of its own", edge_targets.load("x86_avx512"), "fp32")
    assert outcome.verdict == "WRONG"
    assert "with its cache" in outcome.reason


def test_what_cannot_run_here_is_packaged_and_says_so() -> None:
    target = replace(edge_targets.load("x86_avx512"), cannot_run_here="it is a lamp")
    assert tried("Llama, tied head", target, "int8") == Outcome("not run here", "it is a lamp")


def test_a_missing_runtime_is_not_a_refusal() -> None:
    target = replace(edge_targets.load("x86_avx512"), runtime_modules=("no_such_runtime",))
    outcome = tried("Llama, tied head", target, "int8")
    assert outcome.verdict == "not attempted here"
    assert "pip install -c constraints.txt -e '.[x86]'" in outcome.reason


def test_a_target_whose_process_ends_is_wrong_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support.sys, "executable", "/bin/false")
    table = support.tried_apart("x86_avx512")
    assert {outcome for row in table.values() for outcome in row.values()} == {
        Outcome("WRONG", "the process ended with 1")
    }


def test_a_reason_is_one_note_under_its_table() -> None:
    row = {"int8": Outcome("refused", "too\nwide"), "int4": Outcome("refused", "too wide")}
    text = support.document({"x86_avx512": {"Wide": row}})
    assert "| Wide | refused (1) | refused (1) |" in text
    assert text.count("too wide") == 1
