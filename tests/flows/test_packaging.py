"""Extraction in a flow: several targets' subnets at once, in threads of one process."""

from __future__ import annotations

import copy
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fixtures.tiny import make_model, write_base

import edge_targets
from components.base import resolve
from components.reference import load_checkpoint
from components.selection import SelectionSettings, select
from components.shape import AnyShape, Shape, ShapeSpace, parse_shape
from components.smol import AdapterSettings
from components.subnet import extract
from components.supernet import Supernet
from flows import bases, packaging
from flows.bases import Declared
from flows.settings import Settings

TOKENS = torch.randint(2, 96, (4, 32), generator=torch.Generator().manual_seed(1))


def test_subnets_extracted_at_the_same_time_are_those_extracted_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "base").mkdir()
    write_base(tmp_path / "base", make_model())
    origin = resolve(str(tmp_path / "base"), tmp_path)
    declared = Declared("base", str(tmp_path / "base"), origin.fingerprint, "tiny")
    for module in (bases, packaging):
        monkeypatch.setattr(module, "settings", lambda: Settings(workspace=tmp_path))
    monkeypatch.setattr(packaging, "revision", lambda stage, base: "0")
    chosen = select(copy.deepcopy(make_model()), TOKENS, SelectionSettings(2, 1, 4, "fluctuation", 32))
    made = Supernet(make_model(), chosen, ShapeSpace((4, 3, 2), (100, 50)), AdapterSettings(2, 4))
    made.save(declared.artifacts / "supernet", {})
    shapes: list[AnyShape] = [
        Shape(4, 100),
        Shape(3, 50),
        Shape(2, 100),
        *map(parse_shape, ("h4c24", "h2a42", "h1414")),
    ]

    with ThreadPoolExecutor(len(shapes)) as threads:
        folders = list(threads.map(lambda shape: packaging.checkpoint_for(declared, shape), shapes))

    for shape, folder in zip(shapes, folders, strict=True):
        with torch.no_grad():
            assert torch.equal(load_checkpoint(folder)(TOKENS).logits, extract(made, shape).model(TOKENS).logits)


def test_a_target_s_own_environment_is_what_its_packages_are_made_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = edge_targets.load("x86_avx2")
    theirs = replace(ours, name="odd", environment="exporter")
    monkeypatch.setattr("edge_targets.load", {"x86_avx2": ours, "odd": theirs}.__getitem__)
    monkeypatch.setattr(packaging, "settings", lambda: SimpleNamespace(cache=tmp_path))
    made: list[tuple[str, Path]] = []

    def interpreter(name: str, cache: Path) -> Path:
        made.append((name, cache))
        return tmp_path / "python"

    monkeypatch.setattr(packaging, "interpreter", interpreter)
    assert packaging._exporter("x86_avx2") == Path(sys.executable)
    assert made == []
    assert packaging._exporter("odd") == tmp_path / "python"
    assert made == [("exporter", tmp_path / "environments")]
