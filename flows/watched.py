"""The sources that are watched for new base models: `watched` in `bases.yaml`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from components.progress import say
from flows.bases import UnknownNameError, change, check_profile, entries

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_REGISTERED = re.compile(r"""mlflow:([^/:@'"%\s\x00-\x1f]{1,200})""")


@dataclass(frozen=True)
class Watched:
    """One source, each new revision of which is onboarded."""

    source: str
    """A hub id `org/name`; `mlflow:NAME`, a registered model; or an absolute folder."""
    profile: str
    targets: tuple[str, ...] = ()
    """All there are when empty."""

    def __post_init__(self) -> None:
        if self.kind is None:
            raise UnknownNameError(
                f"{self.source!r} cannot be watched: a hub id org/name, mlflow:NAME, or a folder that is there can"
            )

    @property
    def kind(self) -> Literal["registered", "hub", "folder"] | None:
        if self.registered_model is not None:
            return "registered"
        if Path(self.source).is_absolute():
            return "folder"
        return "hub" if _HUB_ID.fullmatch(self.source) and not self.source.startswith(".") else None

    @property
    def registered_model(self) -> str | None:
        """The model of an `mlflow:` source."""
        named = _REGISTERED.fullmatch(self.source)
        return named[1] if named else None


def watched() -> tuple[Watched, ...]:
    """Raises UnknownNameError for an entry that cannot be."""
    return _of(entries())


def add(source: str, profile: str, targets: tuple[str, ...] = ()) -> Watched:
    """Watch a source from now on, or otherwise than before; of a folder that is not there yet, that is said.

    Raises UnknownNameError for an unknown profile or target.
    """
    import edge_targets

    check_profile(profile)
    for target in targets:
        edge_targets.load(target)
    added = Watched(_as_kept(source), profile, targets)

    def edit(values: dict[str, Any]) -> None:
        kept = [one for one in _of(values) if one.source != added.source]
        values["watched"] = [_plain(one) for one in (*kept, added)]

    change(edit)
    if added.kind == "folder" and not Path(added.source).is_dir():
        say(f"{added.source} is no folder yet; it is watched, and what is in it is onboarded once it is there")
    return added


def remove(source: str) -> None:
    """Watch it no longer; what it became stays. Raises UnknownNameError where it is not watched."""

    def edit(values: dict[str, Any]) -> None:
        known = _of(values)
        kept = [one for one in known if one.source not in (source, _as_kept(source), str(Path(source).resolve()))]
        if len(kept) == len(known):
            names = ", ".join(one.source for one in known) or "nothing"
            raise UnknownNameError(f"{source!r} is not watched; {names} is")
        values["watched"] = [_plain(one) for one in kept]

    change(edit)


def _as_kept(source: str) -> str:
    """A folder by its whole path: the service may be started elsewhere."""
    return str(Path(source).resolve()) if Path(source).is_dir() else source


def _of(values: Mapping[str, Any]) -> tuple[Watched, ...]:
    return tuple(_read(one) for one in values.get("watched") or ())


def _read(one: Any) -> Watched:
    try:
        watched = Watched(one["source"], one["profile"], tuple(one.get("targets") or ()))
        if isinstance(one.get("targets"), str) or not all(
            isinstance(word, str) for word in (watched.source, watched.profile, *watched.targets)
        ):
            raise TypeError("words and a list of words are wanted")
        return watched
    except (KeyError, TypeError, AttributeError) as error:
        raise UnknownNameError(
            f"bases.yaml: {one!r} cannot be watched: each of `watched` has a source, a profile and, if not all are meant, a list "
            "of targets"
        ) from error


def _plain(one: Watched) -> dict[str, Any]:
    return {name: list(value) if name == "targets" else value for name, value in asdict(one).items() if value}
