"""Publish, resolve and pull over MLflow's model registry, which keeps names and pointers but does not protect bytes.

1. A version is made only after every file and then its manifest were uploaded, read back and found right; an alias
   moves last. A publisher killed at any point leaves the alias on the old, complete version.
2. No upload touches the bytes of another version, even within one run: each manifest has a folder of its own.
3. The same manifest is published once: publishing it again finds the version that holds it, reads it back, and moves
   the alias there. Where that version is damaged, a new one is made.
4. A device goes alias -> version -> manifest -> files one by one, each of exactly its listed size and hashed, in a
   hidden folder beside the destination. A folder gets its final name only when all of it is right.
5. What was at the destination stays until then, and stays when anything fails.
6. A registry that does not answer is told within about ten seconds, without the password in its address.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry import naming
from registry.embedded import ensure_database
from registry.errors import DamagedError, NoSpaceError, NotFoundError, RefusedError, RegistryError, UnreachableError
from registry.manifest import MANIFEST_FILE, MOST_MANIFEST_BYTES, FileEntry, Manifest, read_manifest

if TYPE_CHECKING:
    from mlflow.entities import FileInfo
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.store.artifact.artifact_repo import ArtifactRepository
    from mlflow.tracking import MlflowClient

EXPERIMENT = "amoeba"
PRODUCTION, PREVIOUS, CANDIDATE = "production", "previous", "candidate"
MANIFEST_TAG, CONTENT_TAG = "amoeba.manifest", "amoeba.content"
_SPARE_BYTES = 64 << 20
_ANSWER_SECONDS = 5
_MOST_MODELS = _MOST_VERSIONS = 10_000

_log = logging.getLogger(__name__)

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

    @property
    def manifest_digest(self) -> str:
        """SHA-256 of the manifest that was registered; empty for a version that something else registered."""
        return self.tags.get(MANIFEST_TAG, "")


class Store:
    """A registry at `uri`: an MLflow server, or an SQLite file with its artifacts under `artifact_root`."""

    def __init__(self, uri: str, artifact_root: str | None = None) -> None:
        if uri.startswith("file:") or "://" not in uri:
            raise RefusedError(
                f"{_shown(uri)} is a file store, which MLflow no longer keeps up; "
                "set AMOEBA_MLFLOW_URI to sqlite:///FILE or to a server's http(s) address"
            )
        self.uri, self.artifact_root = uri, artifact_root
        _prepare_mlflow()

    @cached_property
    def _client(self) -> MlflowClient:
        logging.getLogger("alembic").setLevel(logging.WARNING)
        from mlflow.tracking import MlflowClient

        for chatty in ("mlflow.store.db.utils", "mlflow.store.model_registry.abstract_store"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
        self._knock()
        return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    def _knock(self) -> None:
        """Ask once, shortly: MLflow itself waits minutes for a server that is away or a database that does not open."""
        if self.uri.startswith("sqlite:///"):
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
                raise UnreachableError(self._no_answer(f"status {answer.status_code}"))

    @property
    def _database(self) -> Path:
        return Path(self.uri.removeprefix("sqlite:///"))

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
            return str(self._client.create_experiment(EXPERIMENT, artifact_location=self._artifact_location()))

    def _artifact_location(self) -> str | None:
        """Never MLflow's own default for SQLite, which is below whatever folder the process runs in."""
        if self.artifact_root is not None:
            return self.artifact_root if "://" in self.artifact_root else Path(self.artifact_root).resolve().as_uri()
        if self.uri.startswith("sqlite:///"):
            return self._database.resolve().with_name("mlflow-artifacts").as_uri()
        return None

    def models(self) -> tuple[str, ...]:
        """Every registered model, sorted."""
        with self._reaching():
            return tuple(sorted(model.name for model in _all(self._client.search_registered_models, _MOST_MODELS)))

    def versions(self, registered_model: str) -> tuple[Version, ...]:
        """All versions, newest first, none where a publisher was stopped before its first.

        Raises NotFoundError for a model that is not there, RefusedError for what cannot be a model's name.
        """
        from mlflow.exceptions import MlflowException

        chosen = f"name = '{naming.check_registered(registered_model)}'"
        with self._reaching():
            try:
                # Searching for versions leaves their aliases out; the model has them all.
                aliases = self._client.get_registered_model(registered_model).aliases
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                raise NotFoundError(self._unknown(registered_model)) from error
            found = _all(self._client.search_model_versions, _MOST_VERSIONS, chosen)
        versions = (
            _version(one, tuple(sorted(name for name, number in aliases.items() if str(number) == str(one.version))))
            for one in found
        )
        return tuple(sorted(versions, key=lambda version: -int(version.version)))

    def find(self, registered_model: str, tag: str, value: str) -> Version | None:
        """The newest version with this tag, None where there is none."""
        try:
            versions = self.versions(registered_model)
        except NotFoundError:
            return None
        return next((version for version in versions if version.tags.get(tag) == value), None)

    def resolve(self, registered_model: str, alias_or_version: str = PRODUCTION) -> Version:
        """The version an alias points to, or the version of that number; raises NotFoundError or RefusedError."""
        from mlflow.exceptions import MlflowException

        naming.check_registered(registered_model)
        with self._reaching():
            try:
                if re.fullmatch("[0-9]{1,9}", alias_or_version):
                    found = self._client.get_model_version(registered_model, alias_or_version)
                else:
                    found = self._client.get_model_version_by_alias(registered_model, alias_or_version)
                return _version(found, tuple(found.aliases or ()))
            except MlflowException as error:
                if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    raise
        known = self.versions(registered_model)
        names = sorted({name for version in known for name in version.aliases})
        has = ", ".join([*names, *(version.version for version in known[:5])]) or "none yet"
        raise NotFoundError(f"{registered_model} has no version or alias {alias_or_version[:80]!r}; it has {has}")

    def published(self, registered_model: str, manifest: Manifest, alias: str = PRODUCTION) -> Version | None:
        """The version of that alias when it holds these very files."""
        try:
            current = self.resolve(registered_model, alias)
        except NotFoundError:
            return None
        return current if current.tags.get(CONTENT_TAG) == manifest.content_digest else None

    def manifest(self, version: Version) -> Manifest:
        """The manifest of a version: bounded, then hashed, then read; raises DamagedError or RefusedError."""
        with self._reaching(), tempfile.TemporaryDirectory() as folder:
            content = self._artifacts(version.source).manifest(Path(folder))
        if hashlib.sha256(content).hexdigest() != version.manifest_digest:
            raise DamagedError(
                f"the manifest of {version.registered_model} version {version.version} is not the one registered; "
                "pull another version, or publish again"
            )
        return Manifest.parse(content)

    def attach(self, version: Version, kind: str, content: bytes) -> None:
        """Keep a small document beside a version, whose own bytes never change; the latest of a kind is the one found.

        Raises RefusedError for one that is too large, or UnreachableError; the one before then is still the one found.
        """
        naming.check_alias(kind)
        if not 0 < len(content) <= MOST_MANIFEST_BYTES:
            raise RefusedError(f"a {kind} has {len(content)} bytes; 1 to {MOST_MANIFEST_BYTES} are taken")
        digest = hashlib.sha256(content).hexdigest()
        with self._reaching(), tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{digest}.json"
            path.write_bytes(content)
            self._client.log_artifact(version.run_id, str(path), _attachments(version))
            tag = f"{digest} {len(content)}"
            self._client.set_model_version_tag(version.registered_model, version.version, f"amoeba.{kind}", tag)

    def attached(self, version: Version, kind: str) -> bytes | None:
        """The latest document of a kind, of the size and digest that were noted; raises DamagedError for any other."""
        digest, _, size = version.tags.get(f"amoeba.{kind}", "").partition(" ")
        if not re.fullmatch("[0-9a-f]{64}", digest) or not re.fullmatch("[0-9]{1,8}", size):
            return None
        entry = FileEntry(f"{digest}.json", int(size), digest)
        if entry.size > MOST_MANIFEST_BYTES:
            raise DamagedError(f"a {kind} of {entry.size} bytes is noted; at most {MOST_MANIFEST_BYTES} are taken")
        with self._reaching(), tempfile.TemporaryDirectory() as folder:
            root = self._client.get_run(version.run_id).info.artifact_uri
            self._artifacts(f"{root}/{_attachments(version)}").file(entry, Path(folder))
            return (Path(folder) / entry.path).read_bytes()

    def publish(
        self,
        folder: Path,
        manifest: Manifest,
        *,
        registered_model: str,
        alias: str = PRODUCTION,
        tags: Mapping[str, str] | None = None,
        run_id: str | None = None,
        progress: Progress = _silent,
    ) -> Version:
        """Upload, read back, register, and move `alias`; what was `production` before becomes `previous`.

        A version that holds this very manifest already is read back and used again. Without `run_id`, a run is made
        and ended here. Raises DamagedError when the folder, or what the server holds of it, is not what the manifest
        says, and RefusedError, NoSpaceError or UnreachableError; the alias then is where it was.
        """
        naming.check_registered(registered_model)
        naming.check_alias(alias)
        manifest.verify(folder)
        with self._reaching():
            version = self._known(registered_model, manifest)
            if version is None:
                with self._run(run_id, registered_model) as run:
                    place = f"artifact-{manifest.digest[:16]}"
                    source = f"{self._client.get_run(run).info.artifact_uri}/{place}"
                    self._upload(folder, manifest, run, place, progress)
                    self._read_back(source, manifest)
                    version = self._register(registered_model, manifest, run, source, tags or {})
            self._move_alias(registered_model, alias, version)
        return self.resolve(registered_model, version)

    def pull(
        self, registered_model: str, to: Path, alias_or_version: str = PRODUCTION, progress: Progress = _silent
    ) -> Manifest:
        """Bring a version to the folder `to`; nothing is fetched when it is there already and whole.

        Raises NotFoundError, DamagedError, RefusedError, NoSpaceError or UnreachableError; `to` then is as it was.
        The folder it replaces stays beside it as `.<name>.previous`.
        """
        to = Path(os.path.abspath(to))
        with self._reaching():
            _tidy(to)
            version = self.resolve(registered_model, alias_or_version)
            manifest = self.manifest(version)
            if os.path.lexists(to):
                if not to.is_symlink() and _holds(to, manifest):
                    return manifest
                _check_replaceable(to)
            to.parent.mkdir(parents=True, exist_ok=True)
            _check_space(manifest, to)
            partial = Path(tempfile.mkdtemp(prefix=f".{to.name}.partial-", dir=to.parent))
            try:
                self._fetch_all(version, manifest, partial, progress)
                manifest.verify(partial)
                _place(partial, to)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        return manifest

    def _known(self, registered_model: str, manifest: Manifest) -> str | None:
        """The version that holds this manifest and is still whole."""
        found = self.find(registered_model, MANIFEST_TAG, manifest.digest)
        if found is None:
            return None
        try:
            self._read_back(found.source, manifest)
        except DamagedError as error:
            _log.warning("%s version %s is damaged, publishing it anew: %s", registered_model, found.version, error)
            return None
        return found.version

    @contextlib.contextmanager
    def _run(self, run_id: str | None, registered_model: str) -> Iterator[str]:
        """The run given, or one of our own that ends here."""
        if run_id is not None:
            yield run_id
            return
        run: str = self._client.create_run(self.experiment_id(), run_name=f"publish {registered_model}").info.run_id
        try:
            yield run
        except BaseException:
            with contextlib.suppress(Exception):
                self._client.set_terminated(run, "FAILED")
            raise
        self._client.set_terminated(run, "FINISHED")

    def _upload(self, folder: Path, manifest: Manifest, run_id: str, place: str, progress: Progress) -> None:
        done = 0
        for entry in manifest.files:
            parent = f"{place}/{os.path.dirname(entry.path)}".rstrip("/")
            self._client.log_artifact(run_id, str(folder / entry.path), parent)
            done += entry.size
            progress(done, manifest.size)
        with tempfile.TemporaryDirectory() as beside:
            path = Path(beside) / MANIFEST_FILE
            path.write_bytes(manifest.canonical())
            self._client.log_artifact(run_id, str(path), place)

    def _read_back(self, source: str, manifest: Manifest) -> None:
        """Fetch every file that the server now holds and compare it, one at a time."""
        artifacts = self._artifacts(source)
        for entry in manifest.files:
            with tempfile.TemporaryDirectory() as folder:
                artifacts.file(entry, Path(folder))
        with tempfile.TemporaryDirectory() as folder:
            if artifacts.manifest(Path(folder)) != manifest.canonical():
                raise DamagedError("the server holds another manifest than the one uploaded; publish again")

    def _register(
        self, registered_model: str, manifest: Manifest, run_id: str, source: str, tags: Mapping[str, str]
    ) -> str:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(registered_model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        own = {
            MANIFEST_TAG: manifest.digest,
            CONTENT_TAG: manifest.content_digest,
            "amoeba.kind": manifest.kind,
            "amoeba.model": manifest.model,
            **({"amoeba.target": manifest.target} if manifest.target else {}),
        }
        created = self._client.create_model_version(registered_model, source, run_id, tags={**tags, **own})
        return str(created.version)

    def _move_alias(self, registered_model: str, alias: str, version: str) -> None:
        """`previous` first: a publisher killed in between leaves both on the old version, and the next run ends it."""
        try:
            before = self.resolve(registered_model, alias).version
        except NotFoundError:
            before = None
        if before == version:
            return
        if alias == PRODUCTION and before is not None:
            self._client.set_registered_model_alias(registered_model, PREVIOUS, before)
        self._client.set_registered_model_alias(registered_model, alias, version)

    def _fetch_all(self, version: Version, manifest: Manifest, folder: Path, progress: Progress) -> None:
        artifacts, done = self._artifacts(version.source), 0
        for entry in manifest.files:
            artifacts.file(entry, folder)
            _sync(folder / entry.path)
            done += entry.size
            progress(done, manifest.size)
        (folder / MANIFEST_FILE).write_bytes(manifest.canonical())
        _sync(folder / MANIFEST_FILE)

    def _artifacts(self, source: str) -> _Artifacts:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        return _Artifacts(get_artifact_repository(source, tracking_uri=self.uri))

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
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NoSpaceError(f"the disk is full ({error}); make room and run the same command again") from error
            if isinstance(error, RequestException):
                raise UnreachableError(self._no_answer(error)) from error
            raise RegistryError(f"a file cannot be read or written: {error}; mend that and run it again") from error
        except (SQLAlchemyError, sqlite3.Error) as error:
            if "disk is full" in str(error):
                raise NoSpaceError("the disk is full; make room and run the same command again") from error
            raise UnreachableError(self._no_answer(error)) from error
        except MlflowException as error:
            if re.search("No space left|disk is full", str(error)):
                raise NoSpaceError("the disk is full; make room and run the same command again") from error
            if isinstance(error.__cause__, RequestException) or _UNANSWERED.search(str(error)):
                raise UnreachableError(self._no_answer(error)) from error
            raise RegistryError(
                f"the registry at {_shown(self.uri)} refused: {_first_line(error)}; "
                "check AMOEBA_MLFLOW_URI and your rights"
            ) from error

    def _no_answer(self, error: Any) -> str:
        return (
            f"the registry at {_shown(self.uri)} does not answer ({_first_line(error)}); "
            "check AMOEBA_MLFLOW_URI and the server"
        )


class _Artifacts:
    """The bytes behind one version: every file is listed, sized, fetched and hashed before anyone may have it."""

    def __init__(self, repository: ArtifactRepository) -> None:
        self._repository = repository
        self._listings: dict[str, dict[str, FileInfo]] = {}

    def file(self, entry: FileEntry, folder: Path) -> None:
        """One file into `folder`; raises DamagedError where the server's word or its bytes are not the entry's."""
        self._fetch(entry.path, entry.size, entry.size, folder)
        entry.verify(folder)

    def manifest(self, folder: Path) -> bytes:
        """The manifest's bytes as the server has them, by way of `folder`; raises DamagedError when too many."""
        self._fetch(MANIFEST_FILE, 1, MOST_MANIFEST_BYTES, folder)
        with (folder / MANIFEST_FILE).open("rb") as file:
            content = file.read(MOST_MANIFEST_BYTES + 1)
        if len(content) > MOST_MANIFEST_BYTES:
            raise DamagedError(f"the registry sent a {MANIFEST_FILE} of more than {MOST_MANIFEST_BYTES} bytes")
        return content

    def _fetch(self, path: str, least_bytes: int, most_bytes: int, folder: Path) -> None:
        from mlflow.exceptions import MlflowException

        parent = os.path.dirname(path)
        if parent not in self._listings:
            self._listings[parent] = {info.path: info for info in self._repository.list_artifacts(parent or None)}
        listed = self._listings[parent].get(path)
        if listed is None or listed.is_dir:
            raise DamagedError(f"the registry no longer holds {path}: the version is not whole; pull another version")
        if listed.file_size is not None and not least_bytes <= listed.file_size <= most_bytes:
            raise DamagedError(
                f"the registry's {path} has {listed.file_size} bytes, wanted {least_bytes} to {most_bytes}; "
                "pull another version"
            )
        try:
            self._repository.download_artifacts(path, str(folder))  # type: ignore[no-untyped-call]
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST" and "404 Client Error" not in str(error):
                raise
            raise DamagedError(f"the registry lists {path} but does not send it; pull another version") from error


_UNANSWERED = re.compile(
    "failed with exception|error code 50[234]|Connection (broken|aborted|refused)|[Tt]imed out|Server Error"
)


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


def _all(search: Callable[..., Any], most: int, chosen: str | None = None) -> list[Any]:
    """Every page of a search, `most` results at the most."""
    found: list[Any] = []
    token = None
    while len(found) < most:
        page = search(chosen, max_results=1000, page_token=token)
        found.extend(page)
        token = page.token
        if not token:
            break
    return found


def _version(found: ModelVersion, aliases: tuple[str, ...]) -> Version:
    return Version(found.name, str(found.version), aliases, dict(found.tags), found.run_id or "", found.source or "")


def _attachments(version: Version) -> str:
    return f"attached-{version.manifest_digest[:16]}"


def _shown(uri: str) -> str:
    """Without a user's name and password."""
    return re.sub(r"//[^/\s]*@", "//", uri)


def _first_line(error: Any) -> str:
    """What a person is told of an error: its first line, or the first two where the first only announces the next."""
    lines = [_shown(line) for line in str(error).splitlines() if line.strip() and not line.startswith("#####")]
    return " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1])[:300] or type(error).__name__


def _holds(folder: Path, manifest: Manifest) -> bool:
    try:
        if read_manifest(folder).digest != manifest.digest:
            return False
        manifest.verify(folder)
    except (DamagedError, RefusedError):
        return False
    return True


def _tidy(to: Path) -> None:
    """Clear what an earlier pull of `to` left when it was killed; one killed between its two renames is taken back."""
    if not to.parent.is_dir():
        return
    left = [path for path in to.parent.iterdir() if path.name.startswith(f".{to.name}.partial-")]
    previous = _previous(to)
    if left and previous.is_dir() and not os.path.lexists(to):
        previous.rename(to)
    for path in left:
        shutil.rmtree(path, ignore_errors=True)


def _check_replaceable(to: Path) -> None:
    """Only an empty folder, or one that holds an artifact, is ever replaced: never a folder of someone's own files."""
    if to.is_symlink() or not to.is_dir() or (any(to.iterdir()) and not (to / MANIFEST_FILE).is_file()):
        raise RefusedError(f"{to} exists and holds no pulled artifact; choose another --to, or remove it")


def _check_space(manifest: Manifest, to: Path) -> None:
    free = shutil.disk_usage(to.parent).free
    if free < manifest.size + _SPARE_BYTES:
        raise NoSpaceError(
            f"{manifest.model} needs {(manifest.size + _SPARE_BYTES) / 1e6:.0f} MB at {to.parent}, "
            f"{free / 1e6:.0f} MB are free; make room or choose another --to"
        )


def _previous(to: Path) -> Path:
    return to.with_name(f".{to.name}.previous")


def _place(partial: Path, to: Path) -> None:
    """Rename into place; the folder before is kept beside as `.<name>.previous`, and put back when renaming fails."""
    partial.chmod(0o755)
    for root, _, _ in os.walk(partial):
        _sync(Path(root))
    previous, replaces = _previous(to), to.exists()
    if replaces:
        if previous.exists():
            shutil.rmtree(previous)
        to.rename(previous)
    try:
        partial.rename(to)
    except BaseException:
        if replaces and not to.exists():
            previous.rename(to)
        raise
    _sync(to.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
