"""Where a base's bytes come from, when that is a registered model of MLflow: fetched once, bounded, never unpickled."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from components.base import Base, BaseError, registered, resolve
from components.kept import forget, once
from flows import tracking
from flows.settings import settings
from registry.errors import DamagedError, NoSpaceError
from registry.paths import check_path
from registry.reaching import shown

if TYPE_CHECKING:
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

    from registry.store import Store

_PLACES = (("",), ("model", "components/tokenizer"))
"""A model's folder that was logged as it is, and where MLflow's transformers flavour puts the same files."""
_WANTED = (".json", ".jinja", ".safetensors", ".txt", ".md", "LICENSE")
_MOST_FILES = 2_000
_CAME_FROM = ".registry"
"""A file beside the model's, with the digest of the registry's address: elsewhere the same name is another model."""


def resolved(source: str) -> Base:
    """The base of a source, fetched where it is a registered model's version that is not here.

    Raises what `components.base.resolve` and `bring` raise.
    """
    named = registered(source, settings().cache)
    if named is not None:
        bring(named.model, named.version, named.folder)
    return resolve(source, settings().cache)


def bring(name: str, version: str, folder: Path) -> None:
    """See to it that a registered model's version is in `folder`, as this workspace's registry has it.

    Raises BaseError for a version that is not there or is no model's folder, RegistryError for what another time may bring.
    """
    registry = hashlib.sha256(settings().registry_uri.encode()).hexdigest()
    came_from = folder / _CAME_FROM
    if folder.is_dir() and not (came_from.is_file() and came_from.read_text() == registry):
        _with_version(name, version)
        forget(folder)

    def fill(half: Path) -> None:
        _fetch(name, version, half)
        (half / _CAME_FROM).write_text(registry)

    once(folder, fill)


def _with_version(name: str, version: str) -> Store:
    """The registry, which has it; raises BaseError where it has not."""
    registry = tracking.store()
    if registry.version(name, version) is None:
        raise BaseError(f"the registry has no version {version} of {name!r}")
    return registry


def _fetch(name: str, version: str, folder: Path) -> None:
    """Every file a base is made of, of the size that the registry lists; anything else, pickles above all, is left there.

    No other server is asked, wherever the version says that it lies.
    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    registry, what = _with_version(name, version), f"version {version} of {name!r}"
    with registry.reaching():
        place = registry.mlflow.get_model_version_download_uri(name, version)
        if registry.artifacts(place).is_elsewhere:  # MLflow would ask there with the registry's credentials
            raise BaseError(
                f"{what} lies on another server than the registry, at {shown(place)}; log its files to the registry"
            )
        repository = get_artifact_repository(place, tracking_uri=registry.uri, registry_uri=registry.uri)
        files = _files(repository, what)
        needed, free = sum(files.values()), shutil.disk_usage(folder).free
        if needed > free:
            raise NoSpaceError(f"{what} has {needed / 1e9:.1f} GB, the disk has {free / 1e9:.1f}")
        for path, size in files.items():
            came = Path(repository.download_artifacts(path, str(folder)))  # type: ignore[no-untyped-call]
            if came.stat().st_size != size:
                raise DamagedError(
                    f"{path} of {name!r} came with {came.stat().st_size} bytes, {size} are listed; try again"
                )
            came.rename(folder / came.name)


def _files(repository: ArtifactRepository, what: str) -> dict[str, int]:
    """Bytes by path of the files that make the model; raises BaseError where there is no config.json among them."""
    for places in _PLACES:
        listed = [info for place in places for info in repository.list_artifacts(place or None) if not info.is_dir]
        if len(listed) > _MOST_FILES:
            raise BaseError(f"a base has at most {_MOST_FILES} files, {what} has {len(listed)}")
        files = {info.path: info.file_size or 0 for info in listed if info.path.endswith(_WANTED)}
        if "config.json" in {Path(path).name for path in files}:
            for path in files:
                check_path(path)
            return files
    raise BaseError(
        f"{what} is no Hugging Face model folder: it has no config.json at its top or in model/. "
        "Log the folder itself, or use mlflow.transformers.log_model"
    )
