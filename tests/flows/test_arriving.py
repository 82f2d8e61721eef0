"""What is onboarded already is read from a registry, and bases come from one: MLflow's own, in a file."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from components.base import Base, BaseError
from flows import settings, sources, tracking
from flows.arrivals import arrivals
from flows.arriving import also_known_as, lacking
from flows.onboarding_lock import one_at_a_time
from flows.watched import Watched
from registry import naming
from registry.errors import DamagedError
from registry.manifest import Manifest
from registry.store import Store

OLD, NEW = "ab" * 32, "cd" * 32
TARGETS = ("x86_avx2", "x86_avx512")
FILES = {
    "config.json": b"{}",
    "tokenizer.json": b"{}",
    "model.safetensors": b"weights",
    "LICENSE": b"A licence.",
    "optimizer.pt": b"a pickle",
    "training.bin": b"another",
}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("workspace")
    (folder / "bases.yaml").write_text("bases: {}\n")
    (folder / ".amoeba").mkdir()
    (folder / "keys").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settings.settings(), "workspace", folder)
        patch.setattr(settings.settings(), "mlflow_uri", None)
        patch.setattr(settings.settings(), "trust", folder / "keys")
        yield folder


@pytest.fixture(scope="module")
def store(workspace: Path) -> Store:
    made = tracking.store()
    made.experiment_id()
    return made


def publish(store: Store, folder: Path, base: str, target: str | None, fingerprint: str, profile: str = "tiny") -> None:
    folder.mkdir()
    (folder / "weights").write_bytes(f"{fingerprint} {target}".encode())
    lineage = {"base_fingerprint": fingerprint, "profile": profile}
    kind = "package" if target else "supernet"
    manifest = Manifest.of(folder, kind=kind, model=base, target=target, facts={}, lineage=lineage)
    registered = naming.package_model(base, target) if target else naming.supernet_model(base)
    store.publish(folder, manifest, registered_model=registered)


def test_what_is_published_of_a_revision_is_lacking_no_longer(store: Store, tmp_path: Path) -> None:
    def missing(fingerprint: str, profile: str = "tiny") -> tuple[str, ...] | None:
        return lacking(store, "one", fingerprint, profile, TARGETS)

    assert missing(OLD) is None
    publish(store, tmp_path / "supernet", "one", None, OLD)
    assert missing(OLD) == TARGETS
    publish(store, tmp_path / "package", "one", "x86_avx2", OLD)
    assert missing(OLD) == ("x86_avx512",)
    publish(store, tmp_path / "other", "one", "x86_avx512", OLD)
    assert missing(OLD) == ()
    assert missing(NEW) is None
    assert missing(OLD, "full") is None


def test_a_revision_that_a_newer_one_replaced_is_still_onboarded(store: Store, tmp_path: Path) -> None:
    for number, fingerprint in enumerate((OLD, NEW)):
        publish(store, tmp_path / f"s{number}", "two", None, fingerprint)
        publish(store, tmp_path / f"p{number}", "two", "x86_avx2", fingerprint)
    assert lacking(store, "two", OLD, "tiny", ("x86_avx2",)) == ()


def test_a_version_that_no_device_would_take_is_lacking(store: Store, tmp_path: Path) -> None:
    publish(store, tmp_path / "supernet", "three", None, OLD)
    publish(store, tmp_path / "package", "three", "x86_avx2", OLD)
    (version,) = store.versions("three--x86_avx2")
    manifest = Path(version.source.removeprefix("file://")) / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b"tiny", b"tony"))
    with pytest.raises(DamagedError):
        store.manifest(version)
    assert lacking(store, "three", OLD, "tiny", ("x86_avx2",)) == ("x86_avx2",)


def test_the_same_bytes_are_known_by_every_name_they_were_onboarded_under(workspace: Path) -> None:
    known = {
        "first": {"source": "first", "fingerprint": OLD, "profile": "tiny"},
        "copy": {"source": "copy", "fingerprint": OLD, "profile": "tiny"},
        "other": {"source": "other", "fingerprint": NEW, "profile": "tiny"},
        "longer": {"source": "longer", "fingerprint": OLD, "profile": "full"},
    }
    (workspace / "bases.yaml").write_text(yaml.safe_dump({"bases": known}))
    base = Base("copy", "copy", "local", OLD, "apache-2.0", workspace)
    assert also_known_as(base, "tiny") == ("first",)


def test_who_comes_second_waits_and_says_so(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    order = list[str]()
    inside, leave = threading.Event(), threading.Event()

    def first() -> None:
        with one_at_a_time("one", OLD):
            inside.set()
            leave.wait(60)
            order.append("first")

    def second() -> None:
        with one_at_a_time("one", OLD):
            order.append("second")

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    assert inside.wait(60)
    threads[1].start()
    while "one is being onboarded or built from by another process; waiting" not in capsys.readouterr().err:
        assert threads[1].is_alive()
    leave.set()
    for thread in threads:
        thread.join(60)
    assert order == ["first", "second"]


def register(store: Store, name: str, files: dict[str, bytes]) -> str:
    """A version of somebody's own registered model, whose run holds these files; its number."""
    client = store.client()
    run = client.create_run(store.experiment_id())
    for path, content in files.items():
        local = Path(settings.settings().root) / Path(path).name
        local.write_bytes(content)
        client.log_artifact(run.info.run_id, str(local), str(Path("base", path).parent))
        local.unlink()
    store.ensure_model(name)
    source = f"{run.info.artifact_uri}/base"
    return str(client.create_model_version(name, source, run.info.run_id).version)


def test_the_newest_version_of_a_registered_model_arrives_and_what_we_published_does_not(
    store: Store, tmp_path: Path
) -> None:
    watched = Watched("mlflow:lab_base", "tiny")
    assert arrivals(watched) == ()
    register(store, "lab_base", FILES)
    register(store, "lab_base", FILES)
    publish(store, tmp_path / "ours", "lab_base", None, OLD)
    assert [one.source for one in arrivals(watched)] == ["mlflow:lab_base@2"]


def test_a_registered_model_comes_without_what_could_run_code_and_only_once(store: Store) -> None:
    source = f"mlflow:plain@{register(store, 'plain', FILES)}"
    folder = Path(sources.local(source))
    assert folder.name == "plain-edge"
    came = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert came == {name: content for name, content in FILES.items() if not name.endswith((".pt", ".bin"))}
    before = folder.stat().st_mtime_ns
    assert sources.local(source) == str(folder)
    assert folder.stat().st_mtime_ns == before


def test_a_model_in_the_layout_of_mlflow_s_flavour_is_one_folder_too(store: Store) -> None:
    files = {
        "MLmodel": b"flavors:",
        "model/config.json": b"{}",
        "model/model.safetensors": b"weights",
        "components/tokenizer/tokenizer.json": b"{}",
    }
    folder = Path(sources.local(f"mlflow:flavour@{register(store, 'flavour', files)}"))
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert {path.parent for path in folder.rglob("*") if path.is_file()} == {folder}


def test_what_is_no_model_in_the_registry_is_refused_with_the_reason(store: Store) -> None:
    version = register(store, "sklearn", {"MLmodel": b"flavors:", "model.pkl": b"a pickle"})
    with pytest.raises(BaseError, match=r"version 1 of 'sklearn' is no Hugging Face model folder"):
        sources.local(f"mlflow:sklearn@{version}")
    with pytest.raises(BaseError, match="the registry has no version 7 of 'sklearn'"):
        sources.local("mlflow:sklearn@7")
    with pytest.raises(BaseError, match="names no version; mlflow:NAME@VERSION does"):
        sources.local("mlflow:sklearn")


def test_any_other_source_is_left_as_it_is() -> None:
    assert sources.local("org/name@main") == "org/name@main"
