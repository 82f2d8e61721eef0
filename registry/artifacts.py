"""The bytes behind one version: every file is bounded, fetched and hashed before anyone may have it.

Over HTTP that is our own transfer, which goes on after a cut. Any other store is read through MLflow, listed first, so that no
more than the manifest's bytes are asked for, and hashed after. MLflow lists with the registry's credentials, wherever that is: so
nothing is listed, nor removed, on a server that is not the registry.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from registry.errors import DamagedError, MissingError, RegistryError, UnreachableError
from registry.manifest import MOST_MANIFEST_BYTES, FileEntry
from registry.paths import MANIFEST_FILE, SIGNATURE_FILE
from registry.patience import Patience
from registry.reaching import shown
from registry.remote import Remote
from registry.signature import MOST_SIGNATURE_BYTES
from registry.transfer import Transfer, small

if TYPE_CHECKING:
    from mlflow.entities import FileInfo
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

_log = logging.getLogger(__name__)


class Artifacts:
    """What an MLflow artifact location holds of one version."""

    def __init__(self, repository: ArtifactRepository, registry_uri: str, patience: Patience) -> None:
        # What `runs:` and `models:` lead to is a repository within theirs, and may be such a one again.
        while hasattr(repository, "repo"):
            repository = repository.repo
        self._repository = repository
        self._patience, address = patience, str(self._repository.artifact_uri)
        self._remote = Remote(address, registry_uri, patience) if address.startswith(("http://", "https://")) else None
        self.is_near = urlsplit(address).scheme in ("", "file")
        """Whether the bytes are on this machine already."""
        self._listings: dict[str, dict[str, FileInfo]] = {}
        self._listing = threading.Lock()

    @property
    def is_elsewhere(self) -> bool:
        """Whether another server than the registry holds them."""
        return self._remote is not None and not self._remote.is_registry

    def file(self, entry: FileEntry, folder: Path) -> None:
        """One file into `folder`; raises DamagedError where the server's word or its bytes are not the entry's."""
        path = folder / entry.path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.bring(entry, path)

    def bring(
        self,
        entry: FileEntry,
        path: Path,
        arrived: Callable[[int], None] = lambda count: None,
        stop: threading.Event | None = None,
        also: Path | None = None,
    ) -> None:
        """One file to `path`, going on with what is there of it where the store can; raises as `file` does.

        `arrived` is told of bytes as they come, and below 0 of those that were given up; `stop` ends it early. Where it
        costs no more, `also` gets the same bytes.
        """
        if self._remote is not None:
            with self._told_apart(entry.path, entry.size, entry.size):
                Transfer(self._remote, entry, path, self._patience, arrived, stop, also).run()
            return
        with tempfile.TemporaryDirectory(prefix=".fetched-", dir=path.parent) as beside:
            self._fetch(entry.path, entry.size, entry.size, Path(beside))
            entry.verify(Path(beside))
            (Path(beside) / entry.path).replace(path)
        arrived(entry.size)

    def manifest(self) -> bytes:
        """The manifest's bytes as the server has them; raises DamagedError when too many."""
        return self._small(MANIFEST_FILE, MOST_MANIFEST_BYTES)

    def signature(self) -> bytes | None:
        """The signature's bytes, None where there is none; raises DamagedError when too many.

        A server that is not the registry is asked for it, and may answer with a 500, every time, for what its store lacks.
        """
        if not self.is_elsewhere:
            return self._small(SIGNATURE_FILE, MOST_SIGNATURE_BYTES) if self._listed(SIGNATURE_FILE) else None
        try:
            return self._small(SIGNATURE_FILE, MOST_SIGNATURE_BYTES)
        except MissingError:
            return None
        except UnreachableError as error:
            _log.warning("taken for unsigned: %s", error)
            return None

    def folders(self) -> list[str]:
        """Names of the folders at the top."""
        return [info.path for info in self._listable().list_artifacts() if info.is_dir]

    def size(self, folder: str) -> int:
        """Bytes of all that is below a folder."""
        listed = self._listable().list_artifacts(folder)
        return sum(self.size(info.path) if info.is_dir else info.file_size or 0 for info in listed)

    def remove(self, folder: str) -> None:
        self._listable().delete_artifacts(folder)  # type: ignore[no-untyped-call]

    def _small(self, name: str, most_bytes: int) -> bytes:
        if self._remote is not None:
            with self._told_apart(name, 1, most_bytes):
                return small(self._remote, name, most_bytes, self._patience)
        with tempfile.TemporaryDirectory() as folder:
            self._fetch(name, 1, most_bytes, Path(folder))
            with (Path(folder) / name).open("rb") as file:
                content = file.read(most_bytes + 1)
        if len(content) > most_bytes:
            raise DamagedError(f"the registry sent a {name} of more than {most_bytes} bytes")
        return content

    def _fetch(self, path: str, least_bytes: int, most_bytes: int, folder: Path) -> None:
        from mlflow.exceptions import MlflowException

        self._check_listed(path, least_bytes, most_bytes)
        try:
            self._repository.download_artifacts(path, str(folder))  # type: ignore[no-untyped-call]
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST" and "404 Client Error" not in str(error):
                raise
            raise DamagedError(f"the registry lists {path} but does not send it; pull another version") from error

    @contextlib.contextmanager
    def _told_apart(self, path: str, least_bytes: int, most_bytes: int) -> Iterator[None]:
        """A server answers for a file that its store has lost, or holds half of, as for one that it cannot send just now.

        What it lists tells them apart.
        """
        try:
            yield
        except UnreachableError as unreachable:
            if self.is_elsewhere:
                raise
            try:
                self._check_listed(path, least_bytes, most_bytes)
            except ValueError:  # MLflow lists what its own server sends, and nothing else
                raise unreachable from None
            raise

    def _check_listed(self, path: str, least_bytes: int, most_bytes: int) -> None:
        listed = self._listed(path)
        if listed is None or listed.is_dir:
            raise MissingError(f"the registry no longer holds {path}: the version is not whole; pull another version")
        if listed.file_size is not None and not least_bytes <= listed.file_size <= most_bytes:
            raise DamagedError(
                f"the registry's {path} has {listed.file_size} bytes, wanted {least_bytes} to {most_bytes}; "
                "pull another version"
            )

    def _listed(self, path: str) -> FileInfo | None:
        parent = os.path.dirname(path)
        with self._listing:
            if parent not in self._listings:
                found = self._listable().list_artifacts(parent or None)
                self._listings[parent] = {info.path: info for info in found}
        return self._listings[parent].get(path)

    def _listable(self) -> ArtifactRepository:
        """MLflow's own way there; raises RegistryError where it would show the registry's credentials to another server."""
        if self.is_elsewhere:
            raise RegistryError(
                f"{shown(self._repository.artifact_uri)} is not at the registry's address, and credentials go nowhere else; "
                "look at it with a client of that server"
            )
        return self._repository
