"""The connection to MLflow's registry: names, versions and aliases, and its errors in this package's words.

A registry that does not answer is told within about ten seconds, without the password in its address.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.artifacts import Artifacts
from registry.embedded import ensure_database
from registry.errors import RefusedError, RegistryError, SignatureError
from registry.keys import KeyFile
from registry.patience import Patience
from registry.reaching import no_answer, reaching, shown
from registry.trust import NOBODY, Trust

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

EXPERIMENT = "amoeba"
MANIFEST_TAG, CONTENT_TAG = "amoeba.manifest", "amoeba.content"
UPLOAD_TAG = "amoeba.upload"
"""Of a run: when its latest upload began, in milliseconds since 1970."""
_ANSWER_SECONDS = 5
_MOST_PAGES = 100
"""Of a search, each of up to 1000 results."""


@dataclass(frozen=True)
class Version:
    """One released version and where its bytes are."""

    registered_model: str
    version: str
    aliases: tuple[str, ...]
    tags: Mapping[str, str]
    run_id: str
    source: str

    @property
    def manifest_digest(self) -> str:
        """SHA-256 of the manifest that was registered; empty for a version that something else registered."""
        return self.tags.get(MANIFEST_TAG, "")


class Server:
    """A registry at `uri`: an MLflow server, or an SQLite file with its artifacts under `artifact_root`.

    What is read from it must be signed as `trust` says; what is published is signed where there is a `signing_key`.
    """

    def __init__(
        self,
        uri: str,
        artifact_root: str | None = None,
        trust: Trust = NOBODY,
        signing_key: KeyFile | None = None,
    ) -> None:
        if uri.startswith("file:") or "://" not in uri:
            raise RefusedError(
                f"{shown(uri)} is a file store, which MLflow no longer keeps up; "
                "set AMOEBA_MLFLOW_URI to sqlite:///FILE or to a server's http(s) address"
            )
        self.uri, self.artifact_root, self.patience = uri, artifact_root, Patience()
        self.trust, self.signing_key = trust, signing_key
        _prepare_mlflow()

    @cached_property
    def mlflow(self) -> MlflowClient:
        logging.getLogger("alembic").setLevel(logging.WARNING)
        from mlflow.tracking import MlflowClient

        for chatty in ("mlflow.store.db.utils", "mlflow.store.model_registry.abstract_store"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
        self._knock()
        return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    def _knock(self) -> None:
        """Ask once, shortly: MLflow itself waits minutes for a server that is away or a database that does not open."""
        if self.uri.startswith("sqlite:///"):
            if importlib.util.find_spec("sqlalchemy") is None:
                raise RefusedError(
                    f"{self.uri} is a registry in a file, which the builder's packages open; "
                    "set AMOEBA_MLFLOW_URI to a server's address, or pip install '.[build]'"
                )
            ensure_database(self._database)
            with contextlib.closing(sqlite3.connect(self._database, timeout=_ANSWER_SECONDS)) as database:
                database.execute("PRAGMA schema_version")
        elif self.uri.startswith(("http://", "https://")):
            from mlflow.utils.credentials import get_default_host_creds
            from mlflow.utils.rest_utils import http_request

            answer = http_request(  # type: ignore[no-untyped-call]
                get_default_host_creds(self.uri),  # type: ignore[no-untyped-call]
                "/health",
                "GET",
                max_retries=0,
                timeout=_ANSWER_SECONDS,
                raise_on_status=False,
            )
            if answer.status_code in (502, 503, 504):
                raise no_answer(self.uri, f"status {answer.status_code}")

    @property
    def _database(self) -> Path:
        return Path(self.uri.removeprefix("sqlite:///"))

    def client(self) -> MlflowClient:
        """The MLflow client, for runs; raises UnreachableError when the registry does not answer."""
        with self.reaching():
            self.mlflow.search_experiments(max_results=1)
        return self.mlflow

    def experiment_id(self) -> str:
        """The experiment all runs belong to, made when it is not there."""
        with self.reaching():
            found = self.mlflow.get_experiment_by_name(EXPERIMENT)
            if found is not None:
                return str(found.experiment_id)
            with _there_already():
                return str(self.mlflow.create_experiment(EXPERIMENT, artifact_location=self._artifact_location()))
            return self.experiment_id()

    def _artifact_location(self) -> str | None:
        """Never MLflow's own default for SQLite, which is below whatever folder the process runs in."""
        if self.artifact_root is not None:
            return self.artifact_root if "://" in self.artifact_root else Path(self.artifact_root).resolve().as_uri()
        if self.uri.startswith("sqlite:///"):
            return self._database.resolve().with_name("mlflow-artifacts").as_uri()
        return None

    def runs(self) -> tuple[Run, ...]:
        """Every run of ours, the newest first."""
        experiment = self.experiment_id()
        with self.reaching():

            def search(chosen: str | None, **how: Any) -> Any:
                return self.mlflow.search_runs([experiment], **how)

            return tuple(_all(search))

    def names(self) -> tuple[str, ...]:
        """Of everything registered, sorted."""
        with self.reaching():
            return tuple(sorted(model.name for model in _all(self.mlflow.search_registered_models)))

    def ensure_model(self, name: str, description: str = "") -> None:
        """Make a registered model where there is none."""
        with self.reaching(), _there_already():
            self.mlflow.create_registered_model(name, description=description or None)

    def aliases(self, name: str) -> dict[str, str] | None:
        """Version by alias as MLflow has them; None where no such model is registered."""
        from mlflow.exceptions import MlflowException

        with self.reaching():
            try:
                return {alias: str(number) for alias, number in self.mlflow.get_registered_model(name).aliases.items()}
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                return None

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Asked again where another promoter made the alias since MLflow looked, which its database refuses to make twice."""
        from mlflow.exceptions import MlflowException

        with self.reaching():
            try:
                self.mlflow.set_registered_model_alias(name, alias, version)
            except MlflowException as error:
                if "unique constraint" not in str(error).lower():
                    raise
                self.mlflow.set_registered_model_alias(name, alias, version)

    def versions_of(self, name: str) -> tuple[Version, ...]:
        """All versions, newest first, with no aliases; none where no such model is registered."""
        with self.reaching():
            found = _all(self.mlflow.search_model_versions, f"name = '{name}'")
        return tuple(sorted(map(_version, found), key=lambda version: -int(version.version)))

    def sources(self) -> set[str]:
        """Where the bytes of every version of every model are, others' too."""
        with self.reaching():
            return {str(found.source) for found in _all(self.mlflow.search_model_versions)}

    def version(self, name: str, number: str) -> Version | None:
        """The version of a number, with no aliases; None where there is none."""
        from mlflow.exceptions import MlflowException

        with self.reaching():
            try:
                return _version(self.mlflow.get_model_version(name, number))
            except MlflowException as error:
                if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    raise
                return None

    def create_version(self, name: str, source: str, run_id: str, tags: Mapping[str, str]) -> int:
        """Register a version of a model that is there, and what number the registry gave it."""
        with self.reaching():
            return int(self.mlflow.create_model_version(name, source, run_id, tags=dict(tags)).version)

    def artifacts(self, source: str) -> Artifacts:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        return Artifacts(get_artifact_repository(source, tracking_uri=self.uri), self.uri, self.patience)

    def check_signing(self) -> None:
        """Raise SignatureError where signatures are wanted, and what is released here would have none that is believed."""
        if self.signing_key is not None:
            self.trust.check_signing(self.signing_key.read().public)
        elif self.trust.required:
            raise SignatureError(
                "promotions are signed here, and no key is configured; set AMOEBA_SIGNING_KEY to a key that is trusted"
            )

    def own_trust(self) -> Trust | None:
        """Trust in the configured key alone, None where none is; raises RefusedError for a key that does not open."""
        return Trust((self.signing_key.read().public,), wanted="always") if self.signing_key else None

    def reaching(self) -> AbstractContextManager[None]:
        """Turn what MLflow and the disk raise into this package's errors."""
        return reaching(self.uri)


@contextlib.contextmanager
def _there_already() -> Iterator[None]:
    """Nothing is wrong where what is to be made is there, by another publisher since one looked."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _prepare_mlflow() -> None:
    """What must be set before mlflow is first imported; what the user has set is left alone."""
    for name, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    }.items():
        os.environ.setdefault(name, value)


def _all(search: Callable[..., Any], chosen: str | None = None) -> list[Any]:
    """Every page of a search; raises RegistryError for more than are ever read, since nothing is decided on a part."""
    found: list[Any] = []
    token = None
    for _ in range(_MOST_PAGES):
        page = search(chosen, max_results=1000, page_token=token)
        found.extend(page)
        token = page.token
        if not token:
            return found
    raise RegistryError(
        f"the registry lists more than {_MOST_PAGES} pages{f' for {chosen}' if chosen else ''}, and no more are read; "
        "remove in MLflow what is not needed"
    )


def _version(found: ModelVersion) -> Version:
    return Version(found.name, str(found.version), (), dict(found.tags), found.run_id or "", found.source or "")
