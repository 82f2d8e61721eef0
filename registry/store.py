"""Publish, resolve and pull over MLflow's model registry, which keeps names and pointers but does not protect bytes.

1. A version is made only after every file and then its manifest were uploaded, read back and found right; an alias
   moves last. A publisher killed at any point leaves the alias on the old, complete version.
2. The same bytes are published once: publishing them again finds the version that holds them.
3. A device goes alias -> version -> manifest -> files one by one, each bounded by its listed size and hashed, in a
   hidden folder beside the destination. A folder gets its final name only when all of it is right.
4. What was at the destination stays until then, and stays when anything fails.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.errors import DamagedError, NoSpaceError, NotFoundError, RefusedError, RegistryError, UnreachableError
from registry.manifest import MANIFEST_FILE, MOST_MANIFEST_BYTES, Manifest, read_manifest

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.store.artifact.artifact_repo import ArtifactRepository
    from mlflow.tracking import MlflowClient

EXPERIMENT = "amoeba"
PRODUCTION, PREVIOUS = "production", "previous"
_FOLDER = "artifact"
_SPARE_BYTES = 64 << 20

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""


def _silent(done: int, total: int) -> None:
    pass


@dataclass(frozen=True)
class Version:
    """One released version and where its bytes are."""

    registered_model: str
    version: str
    aliases: tuple[str, ...]
    tags: Mapping[str, str]
    run_id: str
    source: str


class Store:
    """A registry at `uri`: an MLflow server, or an SQLite file with its artifacts under `artifact_root`."""

    def __init__(self, uri: str, artifact_root: str | None = None) -> None:
        if uri.startswith("file:") or "://" not in uri:
            raise RefusedError(f"{_shown(uri)} is a file store, which MLflow no longer keeps up; use sqlite:///FILE or a server")
        self.uri, self.artifact_root = uri, artifact_root

    @cached_property
    def _client(self) -> MlflowClient:
        for name, value in {
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "1",
            "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
            "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        }.items():
            os.environ.setdefault(name, value)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        from mlflow.tracking import MlflowClient

        logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
        if self.uri.startswith("sqlite:///"):
            Path(self.uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    def client(self) -> MlflowClient:
        """The MLflow client, for runs; raises UnreachableError when the registry does not answer."""
        with self._reaching():
            self._client.search_experiments(max_results=1)
        return self._client

    def experiment_id(self) -> str:
        """The experiment all runs belong to, made when it is not there."""
        with self._reaching():
            found = self._client.get_experiment_by_name(EXPERIMENT)
            if found is not None:
                return str(found.experiment_id)
            root = Path(self.artifact_root).resolve().as_uri() if self.artifact_root else None
            return str(self._client.create_experiment(EXPERIMENT, artifact_location=root))

    def models(self) -> tuple[str, ...]:
        """Every registered model, sorted."""
        with self._reaching():
            return tuple(sorted(model.name for model in self._client.search_registered_models(max_results=1000)))

    def versions(self, registered_model: str) -> tuple[Version, ...]:
        """All versions, newest first; raises NotFoundError for a model that is not there."""
        with self._reaching():
            # Searching leaves the aliases out, so each version is asked for.
            found = self._client.search_model_versions(f"name = '{registered_model}'", max_results=1000)
            versions = [self._client.get_model_version(version.name, version.version) for version in found]
        if not versions:
            raise NotFoundError(self._unknown(registered_model))
        return tuple(_version(version) for version in sorted(versions, key=lambda v: -int(v.version)))

    def resolve(self, registered_model: str, alias_or_version: str = PRODUCTION) -> Version:
        """The version an alias points to, or the version of that number; raises NotFoundError."""
        from mlflow.exceptions import MlflowException

        with self._reaching():
            try:
                if alias_or_version.isdecimal():
                    return _version(self._client.get_model_version(registered_model, alias_or_version))
                return _version(self._client.get_model_version_by_alias(registered_model, alias_or_version))
            except MlflowException as error:
                if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    raise
        if registered_model not in self.models():
            raise NotFoundError(self._unknown(registered_model))
        raise NotFoundError(f"{registered_model} has no version or alias {alias_or_version!r}; `amoeba frontier` lists them")

    def published(self, registered_model: str, manifest: Manifest) -> Version | None:
        """The production version when it holds these very files."""
        try:
            current = self.resolve(registered_model)
        except NotFoundError:
            return None
        return current if current.tags.get("amoeba.content") == manifest.content_digest else None

    def manifest(self, version: Version) -> Manifest:
        """The manifest of a version, bounded and checked; raises DamagedError."""
        with self._reaching(), tempfile.TemporaryDirectory() as folder:
            self._fetch(self._artifacts(version), MANIFEST_FILE, MOST_MANIFEST_BYTES, Path(folder))
            manifest = read_manifest(Path(folder))
        if manifest.digest != version.tags.get("amoeba.manifest"):
            raise DamagedError(
                f"the manifest of {version.registered_model} version {version.version} is not the one that was registered"
            )
        return manifest

    def publish(
        self,
        folder: Path,
        manifest: Manifest,
        *,
        registered_model: str,
        run_id: str,
        progress: Progress = _silent,
    ) -> Version:
        """Upload, read back, register, and move `production`; the version before becomes `previous`.

        Raises DamagedError when the folder, or what the server holds of it, is not what the manifest says.
        """
        manifest.verify(folder)
        with self._reaching():
            self._upload(folder, manifest, run_id, progress)
            source = f"{self._client.get_run(run_id).info.artifact_uri}/{_FOLDER}"
            self._read_back(source, manifest)
            version = self._register(registered_model, manifest, run_id, source)
            self._move_alias(registered_model, version)
        return self.resolve(registered_model, version)

    def pull(
        self, registered_model: str, to: Path, alias_or_version: str = PRODUCTION, progress: Progress = _silent
    ) -> Manifest:
        """Bring a version to the folder `to`; nothing is fetched when it is there already and whole.

        Raises NotFoundError, DamagedError, RefusedError, NoSpaceError or UnreachableError; `to` then is as it was.
        """
        version = self.resolve(registered_model, alias_or_version)
        manifest = self.manifest(version)
        to = to.absolute()
        if to.exists():
            if _holds(to, manifest):
                return manifest
            _check_replaceable(to)
        to.parent.mkdir(parents=True, exist_ok=True)
        for left in to.parent.glob(f".{to.name}.partial-*"):
            shutil.rmtree(left, ignore_errors=True)
        free = shutil.disk_usage(to.parent).free
        if free < manifest.size + _SPARE_BYTES:
            raise NoSpaceError(
                f"{registered_model} needs {manifest.size / 1e6:.0f} MB at {to.parent}, {free / 1e6:.0f} MB are free; "
                "make room or choose another --to"
            )
        partial = Path(tempfile.mkdtemp(prefix=f".{to.name}.partial-", dir=to.parent))
        try:
            with self._reaching():
                self._fetch_all(version, manifest, partial, progress)
            manifest.verify(partial)
            _place(partial, to)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return manifest

    def _upload(self, folder: Path, manifest: Manifest, run_id: str, progress: Progress) -> None:
        done = 0
        for entry in manifest.files:
            parent = f"{_FOLDER}/{os.path.dirname(entry.path)}".rstrip("/")
            self._client.log_artifact(run_id, str(folder / entry.path), parent)
            done += entry.size
            progress(done, manifest.size)
        with tempfile.TemporaryDirectory() as beside:
            path = Path(beside) / MANIFEST_FILE
            path.write_bytes(manifest.canonical())
            self._client.log_artifact(run_id, str(path), _FOLDER)

    def _read_back(self, source: str, manifest: Manifest) -> None:
        """Fetch every file that the server now holds and compare it, one at a time."""
        repository = self._repository(source)
        for entry in manifest.files:
            with tempfile.TemporaryDirectory() as folder:
                self._fetch(repository, entry.path, entry.size, Path(folder))
                entry.verify(Path(folder))
        with tempfile.TemporaryDirectory() as folder:
            self._fetch(repository, MANIFEST_FILE, MOST_MANIFEST_BYTES, Path(folder))
            if read_manifest(Path(folder)).digest != manifest.digest:
                raise DamagedError("the server holds another manifest than the one uploaded; publish again")

    def _register(self, registered_model: str, manifest: Manifest, run_id: str, source: str) -> str:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(registered_model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        tags = {
            "amoeba.manifest": manifest.digest,
            "amoeba.content": manifest.content_digest,
            "amoeba.kind": manifest.kind,
            "amoeba.model": manifest.model,
            **({"amoeba.target": manifest.target} if manifest.target else {}),
        }
        created = self._client.create_model_version(registered_model, source, run_id, tags=tags)
        return str(created.version)

    def _move_alias(self, registered_model: str, version: str) -> None:
        try:
            before = self.resolve(registered_model).version
        except NotFoundError:
            before = None
        if before is not None and before != version:
            self._client.set_registered_model_alias(registered_model, PREVIOUS, before)
        self._client.set_registered_model_alias(registered_model, PRODUCTION, version)

    def _fetch_all(self, version: Version, manifest: Manifest, folder: Path, progress: Progress) -> None:
        repository, done = self._artifacts(version), 0
        for entry in manifest.files:
            self._fetch(repository, entry.path, entry.size, folder)
            entry.verify(folder)
            _sync(folder / entry.path)
            done += entry.size
            progress(done, manifest.size)
        (folder / MANIFEST_FILE).write_bytes(manifest.canonical())
        _sync(folder / MANIFEST_FILE)

    def _fetch(self, repository: ArtifactRepository, path: str, most_bytes: int, folder: Path) -> None:
        """One file into `folder`, after the server's own word that it is there and not longer than `most_bytes`."""
        listed = {info.path: info for info in repository.list_artifacts(os.path.dirname(path) or None)}
        if path not in listed or listed[path].is_dir:
            raise DamagedError(f"the registry no longer holds {path}; the version is not whole")
        size = listed[path].file_size
        if size is not None and size > most_bytes:
            raise DamagedError(f"the registry's {path} has {size} bytes; at most {most_bytes} were expected")
        repository.download_artifacts(path, str(folder))

    def _artifacts(self, version: Version) -> ArtifactRepository:
        return self._repository(version.source)

    def _repository(self, source: str) -> ArtifactRepository:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        return get_artifact_repository(source, tracking_uri=self.uri)

    def _unknown(self, registered_model: str) -> str:
        import difflib

        known = self.models()
        near = difflib.get_close_matches(registered_model, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(known) or 'none yet'}"
        return f"the registry has no model {registered_model!r}; {hint}"

    @contextlib.contextmanager
    def _reaching(self) -> Iterator[None]:
        """Turn what MLflow and the disk raise into this package's errors."""
        from mlflow.exceptions import MlflowException
        from requests.exceptions import RequestException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except RegistryError:
            raise
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise NoSpaceError(f"the disk is full ({error}); make room and run the same command again") from error
            if isinstance(error, RequestException):
                raise UnreachableError(self._no_answer(error)) from error
            raise DamagedError(f"the registry's files cannot be read or written: {error}") from error
        except SQLAlchemyError as error:
            raise UnreachableError(self._no_answer(error)) from error
        except MlflowException as error:
            if "No space left" in str(error):
                raise NoSpaceError("the disk is full; make room and run the same command again") from error
            if isinstance(error.__cause__, RequestException) or "failed with exception" in str(error):
                raise UnreachableError(self._no_answer(error)) from error
            raise RegistryError(f"the registry refused: {str(error).splitlines()[0]}") from error

    def _no_answer(self, error: Any) -> str:
        reason = _shown(str(error).splitlines()[0])[:200]
        return f"the registry at {_shown(self.uri)} does not answer ({reason}); check AMOEBA_MLFLOW_URI and the server"


def _version(found: ModelVersion) -> Version:
    return Version(
        found.name, str(found.version), tuple(found.aliases or ()), dict(found.tags), found.run_id or "", found.source
    )


def _shown(uri: str) -> str:
    """Without a user's name and password."""
    return re.sub(r"//[^/@\s]*@", "//", uri)


def _holds(folder: Path, manifest: Manifest) -> bool:
    try:
        if read_manifest(folder).digest != manifest.digest:
            return False
        manifest.verify(folder)
    except (DamagedError, RefusedError):
        return False
    return True


def _check_replaceable(to: Path) -> None:
    """Only an empty folder, or one that holds an artifact, is ever replaced: never a folder of someone's own files."""
    if to.is_symlink() or not to.is_dir() or (any(to.iterdir()) and not (to / MANIFEST_FILE).is_file()):
        raise RefusedError(f"{to} exists and holds no pulled artifact; choose another --to, or remove it")


def _place(partial: Path, to: Path) -> None:
    """Rename into place; the folder before is kept beside as `.<name>.previous`, and put back when renaming fails."""
    partial.chmod(0o755)
    _sync(partial)
    previous = to.with_name(f".{to.name}.previous")
    if to.exists():
        shutil.rmtree(previous, ignore_errors=True)
        to.rename(previous)
    try:
        partial.rename(to)
    except OSError:
        if previous.exists() and not to.exists():
            previous.rename(to)
        raise
    _sync(to.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
