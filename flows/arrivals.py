"""What every watched source is now: cheap questions, asked again and again, whose answer changes with the source's bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from components.progress import say
from flows import tracking
from flows.watched import Watched

_HUB_S = 20


class SourceError(Exception):
    """A source that does not answer now; the message names it. The next time may be better."""


@dataclass(frozen=True)
class Arrival:
    """A revision of a source, as the flow `arrive` takes it, and whose profile and targets it is onboarded with."""

    source: str
    revision: str
    watched: Watched

    @property
    def key(self) -> str:
        """The same for the same revision onboarded in the same way: what makes a second start of it none."""
        told = "\n".join((self.source, self.revision, self.watched.profile, *sorted(self.watched.targets)))
        return hashlib.sha256(told.encode()).hexdigest()


def arrivals(watched: Watched) -> tuple[Arrival, ...]:
    """The newest revision of a source; of a folder of folders, each model in it. Raises SourceError."""
    if watched.registered_model is not None:
        return _registered(watched, watched.registered_model)
    if watched.kind == "hub":
        return _on_hub(watched)
    return _dropped(watched, Path(watched.source))


def _registered(watched: Watched, model: str) -> tuple[Arrival, ...]:
    """None where nothing is registered yet. What this project published itself is no base."""
    from registry.errors import RegistryError

    try:
        versions = tracking.store().versions_of(model)
    except RegistryError as error:
        raise SourceError(f"{watched.source}: {error}") from error
    foreign = [one.version for one in versions if not one.manifest_digest]
    return tuple(Arrival(f"{watched.source}@{version}", version, watched) for version in foreign[:1])


def _on_hub(watched: Watched) -> tuple[Arrival, ...]:
    from huggingface_hub import HfApi

    try:
        commit = str(HfApi().model_info(watched.source, timeout=_HUB_S).sha)
    except Exception as error:  # huggingface_hub and its transports raise many kinds
        said = next(iter(str(error).splitlines()), type(error).__name__)
        raise SourceError(f"{watched.source}: the hub does not answer ({said})") from error
    return (Arrival(f"{watched.source}@{commit}", commit, watched),)


def _dropped(watched: Watched, folder: Path) -> tuple[Arrival, ...]:
    """The folder itself where it is a model's, else every model's folder in it that has a name of its own already.

    One of them that cannot be read is told, and keeps no other from arriving.
    """
    try:
        if not folder.is_dir():
            raise SourceError(f"{folder} is no folder; make it, or `amoeba bases remove {watched.source}`")
        candidates = [folder] if _is_model(folder) else sorted(filter(Path.is_dir, folder.iterdir()))
    except OSError as error:
        raise SourceError(f"{folder} cannot be read: {error}") from error
    found = []
    for candidate in candidates:
        try:
            if not candidate.name.startswith(".") and _is_model(candidate):
                found.append(Arrival(str(candidate), _state(candidate), watched))
        except OSError as error:
            say(f"{candidate} cannot be read: {error}")
    return tuple(found)


def _is_model(folder: Path) -> bool:
    return (folder / "config.json").is_file()


def _state(folder: Path) -> str:
    """Digest of every file's name, size and time of change: it changes while a folder is being copied."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        try:
            facts = path.stat()
        except FileNotFoundError:
            continue  # moved away meanwhile: another state
        told = f"{path.relative_to(folder)}\0{facts.st_size}\0{facts.st_mtime_ns}\n"
        total.update(told.encode(errors="surrogateescape"))
    return total.hexdigest()


class Watch:
    """Looks again and again, and tells of a dropped folder only when two looks after each other saw the same."""

    def __init__(self, look: Callable[[Watched], tuple[Arrival, ...]] = arrivals) -> None:
        self._look = look
        self._seen: dict[str, str] = {}
        self._had: dict[Watched, tuple[Arrival, ...]] = {}

    def whole(self, watched: tuple[Watched, ...], failed: Callable[[str], None]) -> tuple[Arrival, ...]:
        """What all sources have; one that did not answer has what it had, `failed` is told, and the others go on."""
        found: list[Arrival] = []
        for one in watched:
            try:
                looked = self._look(one)
            except SourceError as error:
                failed(str(error))
                found += self._had.get(one, ())
                continue
            self._had[one] = tuple(
                arrival
                for arrival in looked
                if one.kind != "folder" or self._seen.get(arrival.source) == arrival.revision
            )
            self._seen |= {arrival.source: arrival.revision for arrival in looked}
            found += self._had[one]
        return tuple(found)
