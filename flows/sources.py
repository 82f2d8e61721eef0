"""Where a base's bytes come from, when that is a registered model of MLflow: fetched once, bounded, never unpickled."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from components.base import BaseError
from components.kept import once
from flows import tracking
from flows.settings import settings
from flows.work import key_of
from registry.errors import DamagedError, NoSpaceError
from registry.paths import check_path

if TYPE_CHECKING:
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

SUFFIX = "-edge"
"""What is made of the registered model NAME is called NAME-edge: the registry's NAME, and its aliases, are its owner's."""
_VERSION = re.compile(r"mlflow:([^/:@\s\x00-\x1f]{1,200})@([0-9]{1,9})")
_PLACES = (("",), ("model", "components/tokenizer"))
"""A model's folder that was logged as it is, and where MLflow's transformers flavour puts the same files."""
_WANTED = (".json", ".jinja", ".safetensors", ".txt", ".md", "LICENSE")
_MOST_FILES = 2_000


def local(source: str) -> str:
    """The folder of a registered model's version, `mlflow:NAME@VERSION`; any other source as it is.

    Raises BaseError for a version that is not there or is no model's folder, RegistryError for what another time may bring.
    """
    if not source.startswith("mlflow:"):
        return source
    named = _VERSION.fullmatch(source)
    if named is None:
        raise BaseError(
            f"{source!r} names no version; mlflow:NAME@VERSION does, and `amoeba bases add` takes mlflow:NAME"
        )
    key = key_of({"source": source, "registry": settings().registry_uri})
    folder = settings().cache / "registered" / key / f"{named[1]}{SUFFIX}"
    return str(once(folder, lambda half: _fetch(named[1], named[2], half)))


def _fetch(name: str, version: str, folder: Path) -> None:
    """Every file a base is made of, of the size that the store lists; anything else, pickles above all, is left there."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    registry = tracking.store()
    if registry.version(name, version) is None:
        raise BaseError(f"the registry has no version {version} of {name!r}")
    with registry.reaching():
        place = registry.mlflow.get_model_version_download_uri(name, version)
        repository = get_artifact_repository(place, tracking_uri=registry.uri, registry_uri=registry.uri)
        files = _files(repository, f"version {version} of {name!r}")
        needed, free = sum(files.values()), shutil.disk_usage(folder).free
        if needed > free:
            raise NoSpaceError(
                f"version {version} of {name!r} has {needed / 1e9:.1f} GB, the disk has {free / 1e9:.1f}"
            )
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
