"""What is written into published manifests is what the committed schema says."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fixtures.schemas import RELEASE

from components.frontier import Point
from flows import tracking
from flows.bases import Declared
from registry.manifest import FileEntry, Manifest

DIGEST = "ab" * 32


@pytest.fixture
def lineage(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What is written of a base that is a local folder, with the revisions that DVC would give."""
    stages = {f"{stage}_revision": f"{'2b' * 16}.dir" for stage in ("data", "selection", "supernet")}
    monkeypatch.setattr(tracking, "lineage", lambda base: {**stages, "dvc_revision": DIGEST})
    monkeypatch.setattr(tracking, "_git_commit", lambda: "c0" * 20)
    return tracking.lineage_of(Declared("tiny", "/home/someone/tiny", DIGEST, "quick"), "apache-2.0")


def test_what_a_package_says_of_itself_is_typed(lineage: dict[str, Any]) -> None:
    point = Point("d4w75", "int8", 12.5, 0.5, (0.4, 0.6), 1.0, 2.0, 3.0, 4.0, "host")
    facts = {"point": point.to_json(), "measurement": {}, "package_key": "1a" * 16}
    made = {**lineage, "builders": {"torch": "2.13.0"}, "subnet_sha256": DIGEST}
    files = (FileEntry("a", 1, DIGEST),)
    value = json.loads(Manifest("package", "tiny", "x86", files, facts, made).canonical())
    RELEASE.validate(value)
    for part in ("facts", "lineage"):
        for name in value[part]:
            assert not RELEASE.is_valid({**value, part: {k: v for k, v in value[part].items() if k != name}}), name
        assert not RELEASE.is_valid({**value, part: {**value[part], "more": 1}})


def test_what_a_supernet_says_of_itself_is_typed(lineage: dict[str, Any]) -> None:
    files = (FileEntry("a", 1, DIGEST),)
    made = Manifest("supernet", "tiny", None, files, {"validation_perplexity": {"d4w75": 12.5}}, lineage)
    RELEASE.validate(json.loads(made.canonical()))
    assert not RELEASE.is_valid({**json.loads(made.canonical()), "target": "x86"})


def test_a_local_bases_path_is_in_no_manifest(lineage: dict[str, Any]) -> None:
    assert lineage["base_source"] == "local"
    assert "someone" not in json.dumps(lineage)
