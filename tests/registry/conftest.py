"""Small artifacts and one SQLite registry: MLflow's first migration takes seconds, so all tests share one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fixtures.artifact_server import ArtifactServer, serving
from fixtures.artifacts import FILES, register, write_artifact
from fixtures.services import USER, Services, running

from registry.manifest import Manifest
from registry.patience import Patience
from registry.store import Store

MakeArtifact = Callable[..., tuple[Path, Manifest]]

ON_EVERY_KIND = ("test_promotions", "test_pull", "test_store")
_numbers = itertools.count()


@pytest.fixture
def make_artifact(tmp_path: Path, name: str) -> MakeArtifact:
    """A folder of three files and its manifest; `files` adds to them or takes their place."""

    def make(files: dict[str, bytes] | None = None) -> tuple[Path, Manifest]:
        folder = tmp_path / f"artifact-{next(_numbers)}"
        model, _, target = name.partition("--")
        return folder, write_artifact(folder, model, target, {**FILES, **(files or {})})

    return make


@pytest.fixture(scope="session")
def registry_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the shared database and its artifacts are, migrated."""
    folder = tmp_path_factory.mktemp("registry")
    _store(folder).experiment_id()
    return folder


@pytest.fixture(scope="session")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """A team's services, the password in the environment as its users have it."""
    with running(tmp_path_factory.mktemp("services")) as services, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_USERNAME", USER)
        patch.setenv("MLFLOW_TRACKING_PASSWORD", services.password)
        yield services


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The tests of some files hold for every registry, so each runs on every kind of it, but for those of local files."""
    if "store" in metafunc.fixturenames:
        local = {"served", "embedded_only"} & set(metafunc.fixturenames)
        everywhere = metafunc.module.__name__.split(".")[-1] in ON_EVERY_KIND and not local
        metafunc.parametrize("store", ("embedded", "services") if everywhere else ("embedded",), indirect=True)


@pytest.fixture
def embedded_only() -> None:
    """For what only a registry in files has: links, and versions whose bytes are anywhere."""


@pytest.fixture
def store(request: pytest.FixtureRequest) -> Store:
    if request.param == "embedded":
        return _store(request.getfixturevalue("registry_folder"))
    return _patient(Store(request.getfixturevalue("services").mlflow))


@pytest.fixture
def name() -> str:
    """A registered model that no other test uses."""
    return f"tiny{next(_numbers)}--x86"


def _store(folder: Path) -> Store:
    return _patient(Store(f"sqlite:///{folder}/mlflow.db", str(folder / "artifacts")))


def _patient(store: Store) -> Store:
    """A registry that waits for a server as ours does, only a thousand times shorter."""
    store.patience = Patience(
        first_pause_s=0.001, most_pause_s=0.01, most_asked_pause_s=0.02, connect_s=2, read_s=10, forward_bytes=4096
    )
    return store


@pytest.fixture
def server() -> Iterator[ArtifactServer]:
    with serving() as server:
        yield server


@pytest.fixture
def served(store: Store, server: ArtifactServer, make_artifact: MakeArtifact) -> Manifest:
    """A registered version whose bytes a server sends."""
    folder, made = make_artifact()
    server.folder = folder
    register(store, folder, made, server.source)
    return made
