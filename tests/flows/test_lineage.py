"""What a release was made from, out of a real registry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fixtures.artifacts import kept

from flows.lineage import Step, trace
from registry.errors import NotFoundError
from registry.manifest import MANIFEST_FILE, Manifest
from registry.store import Store

NOTED = {
    "base_source": "tiny",
    "base_licence": "apache-2.0",
    "base_fingerprint": "1a" * 32,
    "profile": "quick",
    "data_revision": "2b",
    "selection_revision": "3c",
    "supernet_revision": "4d",
    "git_commit": "5e",
}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("registry")
    return Store(f"sqlite:///{folder}/mlflow.db", str(folder / "artifacts"))


def publish(
    registry: Store, folder: Path, target: str | None, lineage: dict[str, Any], facts: dict[str, Any]
) -> Manifest:
    folder.mkdir()
    (folder / "model").write_text(str(lineage) + str(facts))
    kind: Any = "package" if target else "supernet"
    made = Manifest.of(folder, kind=kind, model="tiny", target=target, facts=facts, lineage=lineage)
    registry.publish(folder, made, registered_model=f"tiny--{target}" if target else "tiny")
    return made


def test_a_package_is_traced_to_its_base_over_the_supernet_that_it_was_cut_from_whatever_became_of_a_newer_one(
    registry: Store, tmp_path: Path
) -> None:
    supernet = publish(registry, tmp_path / "supernet", None, NOTED, {})
    publish(registry, tmp_path / "next supernet", None, {**NOTED, "supernet_revision": "4e"}, {})
    (kept(registry.resolve("tiny")) / MANIFEST_FILE).unlink()
    facts = {"point": {"shape": "d4w75", "quantization": "int8"}}
    package = publish(registry, tmp_path / "package", "x86", {**NOTED, "subnet_sha256": "6f"}, facts)
    assert trace(registry, "tiny", "x86", "production") == (
        Step("base", "tiny, apache-2.0, from tiny", "1a" * 32),
        Step("data", "profile quick", "2b"),
        Step("selection", "layers and neurons that every shape keeps", "3c"),
        Step("supernet", "tiny version 1 (previous)", "4d"),
        Step("subnet", "d4w75", "6f"),
        Step("package", "tiny--x86 version 1 (production), int8", package.content_digest),
        Step("manifest", "code 5e", package.digest),
    )
    assert trace(registry, "tiny", None, "1")[-1] == Step("manifest", "tiny version 1 (previous)", supernet.digest)


def test_what_an_older_version_does_not_say_is_shown_as_not_noted(registry: Store, tmp_path: Path) -> None:
    publish(registry, tmp_path / "old", "jetson", {"base_fingerprint": "1a" * 32}, {})
    told = {step.step: (step.what, step.digest) for step in trace(registry, "tiny", "jetson", "production")}
    assert told["supernet"] == ("no registered version", "not noted")
    assert told["base"][1] == "1a" * 32


def test_what_is_not_registered_is_told(registry: Store) -> None:
    with pytest.raises(NotFoundError):
        trace(registry, "tiny", "lamp", "production")
