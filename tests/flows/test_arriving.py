"""What is onboarded already is read from a registry, and bases come from one: MLflow's own, in a file."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest
import yaml
from fixtures.artifact_server import serving
from fixtures.tiny import make_model, write_base
from fixtures.workspace import PROJECT, TINY_PROFILE
from prefect.client.schemas.objects import State, StateType

from components.base import Base, BaseError
from flows import arriving, bases, room, settings, sources, tracking
from flows.arrivals import arrivals
from flows.arriving import Arrived, also_known_as, lacking
from flows.onboard import Outcome
from flows.onboarding_lock import one_at_a_time
from flows.watched import Watched
from registry import naming, promoting
from registry.errors import DamagedError
from registry.manifest import Manifest
from registry.store import PRODUCTION, Store

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


def publish(
    store: Store,
    folder: Path,
    base: str,
    target: str | None,
    fingerprint: str,
    profile: str = "tiny",
    alias: str = PRODUCTION,
) -> None:
    folder.mkdir()
    (folder / "weights").write_bytes(f"{fingerprint} {target}".encode())
    lineage = {"base_fingerprint": fingerprint, "profile": profile}
    kind = "package" if target else "supernet"
    manifest = Manifest.of(folder, kind=kind, model=base, target=target, facts={}, lineage=lineage)
    registered = naming.package_model(base, target) if target else naming.supernet_model(base)
    store.publish(folder, manifest, registered_model=registered, alias=alias)


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


@pytest.mark.parametrize("alias", ["d30w100-int4", None])
def test_a_version_that_was_not_released_is_lacking(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alias: str | None
) -> None:
    name = f"held-{alias or 'killed'}"
    publish(store, tmp_path / "supernet", name, None, OLD)
    with monkeypatch.context() as patch:
        if alias is None:  # the publisher is killed between the version and its promotion

            def killed(*_: object, **__: object) -> None:
                raise KeyboardInterrupt

            patch.setattr(promoting, "promote", killed)
        with pytest.raises(KeyboardInterrupt) if alias is None else nullcontext():
            publish(store, tmp_path / "package", name, "x86_avx2", OLD, alias=alias or PRODUCTION)
    assert len(store.versions(naming.package_model(name, "x86_avx2"))) == 1
    assert lacking(store, name, OLD, "tiny", ("x86_avx2",)) == ("x86_avx2",)


class _Onboarding:
    """What `onboard` is asked for, and what it comes to."""

    def __init__(self, registry: Store, folder: Path) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.failed: dict[str, str] = {}
        self.passing: tuple[str, ...] = ()
        self._registry, self._folder = registry, folder

    def __call__(self, source: str, profile: str, targets: Sequence[str]) -> Outcome:
        self.asked.append(tuple(targets))
        facts = {"base": "arrived", "base_fingerprint": OLD, "profile": profile}
        with tracking.run("onboard arrived", facts, {"targets": " ".join(targets)}) as run:
            folder = self._folder / str(len(self.asked))
            if not self._registry.versions_of("arrived"):
                publish(self._registry, folder.with_suffix(".supernet"), "arrived", None, OLD)
            for target in targets:
                if target not in self.failed:
                    publish(self._registry, folder.with_suffix(f".{target}"), "arrived", target, OLD)
            run.complete = not self.failed
        return Outcome("arrived", "1", None, None, (), self.failed, self.passing)


@pytest.fixture
def onboarding(store: Store, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Onboarding:
    base = Base("arrived", "org/arrived@1", "local", OLD, "apache-2.0", workspace)
    made = _Onboarding(store, tmp_path)
    monkeypatch.setattr(arriving, "resolved", lambda source: base)
    monkeypatch.setattr(arriving, "check_profile", lambda profile: None)
    monkeypatch.setattr(arriving, "onboard", made)
    return made


def test_an_arrival_is_done_once_its_onboarding_came_to_an_end(onboarding: _Onboarding) -> None:
    def arrive() -> object:
        return arriving.arrive.fn("org/arrived@1", "tiny", TARGETS)

    onboarding.failed, onboarding.passing = {"x86_avx512": "no answer", "push": "denied"}, ("x86_avx512",)
    again = arrive()
    assert isinstance(again, State)
    assert (again.type, again.message) == (StateType.FAILED, "x86_avx512: no answer; push: denied")
    onboarding.failed, onboarding.passing = {"push": "denied"}, ()
    again = arrive()
    assert isinstance(again, State)
    assert again.message == "push: denied"
    onboarding.failed = {}  # everything is released, and only the push was lacking
    assert isinstance(arrive(), Arrived)
    assert onboarding.asked == [TARGETS, ("x86_avx512",), TARGETS]
    done = arrive()
    assert isinstance(done, Arrived)
    assert done.outcome is None
    assert len(onboarding.asked) == 3


def test_what_no_other_try_would_help_is_told_and_ends_the_arrival(
    onboarding: _Onboarding, capsys: pytest.CaptureFixture[str]
) -> None:
    onboarding.failed = {"x86_avx2": "nothing is within 1 ms"}
    arrived = arriving.arrive.fn("org/arrived@1", "other", ("x86_avx2",))
    assert isinstance(arrived, Arrived)
    assert "arrived: x86_avx2 failed: nothing is within 1 ms" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("before", "now", "taken"),
    [
        ("org/tiny@1", "org/tiny@2", False),
        ("org/tiny@1", "lab/tiny@1", True),
        ("mlflow:tiny@1", "mlflow:tiny@2", False),
        ("mlflow:tiny@1", "org/tiny@1", True),
        ("smollm2-135m", "{folder}", True),
        ("/elsewhere/tiny", "{folder}", False),
    ],
)
def test_two_bases_have_no_one_name(workspace: Path, tmp_path: Path, before: str, now: str, taken: bool) -> None:
    known = {"tiny": {"source": before, "fingerprint": OLD, "profile": "tiny"}}
    (workspace / "bases.yaml").write_text(yaml.safe_dump({"bases": known}))
    source = now.format(folder=tmp_path)
    bases.check_name(Base("tiny", source, "local", OLD, "apache-2.0", workspace))  # the same bytes
    other = Base("tiny", source, "local", NEW, "apache-2.0", workspace)
    if not taken:
        assert bases.declare(other, "tiny").fingerprint == NEW
        return
    with pytest.raises(bases.NameTakenError, match=f"'tiny' is what {before} is called here, and {source} would take"):
        bases.declare(other, "tiny")
    assert bases.declared("tiny").fingerprint == OLD


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


def test_a_registered_model_comes_without_what_could_run_code_and_only_once(store: Store, tmp_path: Path) -> None:
    version, folder = register(store, "plain", FILES), tmp_path / "plain"
    sources.bring("plain", version, folder)
    assert files_of(folder) == {name: content for name, content in FILES.items() if not name.endswith((".pt", ".bin"))}
    before = folder.stat().st_mtime_ns
    sources.bring("plain", version, folder)
    assert folder.stat().st_mtime_ns == before


def test_what_came_from_another_registry_is_fetched_anew_once_this_one_has_it(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version, folder = register(store, "moved", FILES), tmp_path / "moved"
    sources.bring("moved", version, folder)
    here = files_of(folder)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(settings.settings(), "mlflow_uri", f"sqlite:///{tmp_path / 'mlflow.db'}")
        with pytest.raises(BaseError, match=f"the registry has no version {version} of 'moved'"):
            sources.bring("moved", version, folder)
        assert files_of(folder) == here
        other = tracking.store()
        other.experiment_id()
        assert register(other, "moved", {**FILES, "model.safetensors": b"another"}) == version
        sources.bring("moved", version, folder)
        assert files_of(folder) == {**here, "model.safetensors": b"another"}


def files_of(folder: Path) -> dict[str, bytes]:
    """Content of a brought model's files by path."""
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {path: content for path, content in files.items() if path != ".registry"}


def test_a_model_in_the_layout_of_mlflow_s_flavour_is_one_folder_too(store: Store, tmp_path: Path) -> None:
    files = {
        "MLmodel": b"flavors:",
        "model/config.json": b"{}",
        "model/model.safetensors": b"weights",
        "components/tokenizer/tokenizer.json": b"{}",
    }
    sources.bring("flavour", register(store, "flavour", files), tmp_path / "flavour")
    assert sorted(files_of(tmp_path / "flavour")) == ["config.json", "model.safetensors", "tokenizer.json"]


def test_what_is_no_model_in_the_registry_is_refused_with_the_reason(store: Store, tmp_path: Path) -> None:
    version = register(store, "sklearn", {"MLmodel": b"flavors:", "model.pkl": b"a pickle"})
    with pytest.raises(BaseError, match=r"version 1 of 'sklearn' is no Hugging Face model folder"):
        sources.resolved(f"mlflow:sklearn@{version}")
    with pytest.raises(BaseError, match="the registry has no version 7 of 'sklearn'"):
        sources.resolved("mlflow:sklearn@7")
    with pytest.raises(BaseError, match="names no version; mlflow:NAME@VERSION does"):
        sources.resolved("mlflow:sklearn")


def test_a_version_that_lies_on_another_server_is_refused_before_that_server_is_asked(
    store: Store, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text("{}")
    store.ensure_model("lured")
    with serving(tmp_path) as server:
        experiment = store.client().create_experiment("lured", artifact_location=server.source)
        run = store.client().create_run(experiment).info
        for source in (server.source, f"runs:/{run.run_id}/base"):
            version = store.client().create_model_version("lured", source, run.run_id).version
            with pytest.raises(BaseError, match="lies on another server than the registry, at"):
                sources.resolved(f"mlflow:lured@{version}")
        assert server.shown == []


@pytest.fixture(scope="module")
def ours(store: Store, workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A registered model that can be onboarded, as its version is named, and declared."""
    folder = write_base(tmp_path_factory.mktemp("ours"), make_model())
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    source = f"mlflow:our-base@{register(store, 'our-base', files)}"
    (workspace / "bases.yaml").write_text("bases: {}\n")
    bases.declare(sources.resolved(source), "tiny")
    return source


def test_a_registered_base_is_declared_by_its_name_and_comes_again_where_its_folder_is_gone(ours: str) -> None:
    entry = bases.declared("our-base-edge")
    assert entry.source == ours
    for piece in room.pieces():
        room.remove(piece)
    again = sources.resolved(entry.source)
    assert (again.name, again.source, again.fingerprint) == ("our-base-edge", ours, entry.fingerprint)


def test_a_registered_base_that_was_just_asked_for_is_in_use(ours: str) -> None:
    cache = settings.settings().cache
    for path in (cache / "registered").rglob("*"):
        os.utime(path, (0, 0))
    sources.resolved(ours)
    assert room.to_remove(room.pieces(), unused_hours=24, budget_bytes=0) == ()


def test_a_piece_that_another_process_removes_meanwhile_is_no_piece(ours: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = room.pieces()

    def gone(path: Path) -> float:
        raise FileNotFoundError(path)

    monkeypatch.setattr(room.kept, "used_at", gone)
    assert found
    assert room.pieces() == ()


def test_a_stage_which_knows_no_registry_finds_what_was_brought_and_says_who_brings_it(
    ours: str, workspace: Path
) -> None:
    (workspace / "params.yaml").write_text(yaml.safe_dump({"profiles": {"tiny": TINY_PROFILE}}))
    asked = "from components.stages import Stage; print(Stage.of('our-base-edge', 'tiny').base.fingerprint)"
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "AMOEBA_MLFLOW_URI": "http://127.0.0.1:9"}

    def stage() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", asked]
        return subprocess.run(command, cwd=workspace, env=environment, capture_output=True, text=True, check=False)

    sources.resolved(ours)
    assert stage().stdout.strip() == bases.declared("our-base-edge").fingerprint
    for piece in room.pieces():
        room.remove(piece)
    assert f"`amoeba onboard {ours}` fetches it" in stage().stderr
