"""`bases.yaml`: which bases this workspace ships, each by source, fingerprint and profile."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from components.files import replace_text
from flows.settings import settings

if TYPE_CHECKING:
    from components.base import Base

_HEADER = "# The bases this workspace ships, by the name they have in the registry. `amoeba onboard` adds to it.\n"


class UnknownNameError(ValueError):
    """A base or profile nobody has declared; the message names the nearest."""


@dataclass(frozen=True)
class Declared:
    """One entry, and where its three stages write."""

    name: str
    source: str
    fingerprint: str
    profile: str

    @property
    def artifacts(self) -> Path:
        return settings().root / "artifacts" / self.name


def parameters() -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((settings().root / "params.yaml").read_text())
    return values


def check_profile(profile: str) -> None:
    known = list(parameters()["profiles"])
    if profile not in known:
        near = difflib.get_close_matches(profile, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"params.yaml has {', '.join(known)}"
        raise UnknownNameError(f"no profile is called {profile!r}; {hint}")


def declared(name: str) -> Declared:
    entries = _read()
    if name not in entries:
        near = difflib.get_close_matches(name, entries, n=1)
        hint = f"did you mean {near[0]}?" if near else "`amoeba onboard` declares one"
        raise UnknownNameError(f"no base is called {name!r} in bases.yaml; {hint}")
    return Declared(name, **entries[name])


def declare(base: Base, profile: str) -> Declared:
    """Add or update a base's entry; the file changes only where the entry does."""
    local = Path(base.source).is_dir()
    entry = Declared(base.name, str(Path(base.source).resolve()) if local else base.source, base.fingerprint, profile)
    entries = _read()
    facts = {"source": entry.source, "fingerprint": entry.fingerprint, "profile": entry.profile}
    if entries.get(base.name) != facts:
        entries[base.name] = facts
        replace_text(_path(), _HEADER + yaml.safe_dump({"bases": entries}, sort_keys=False))
    return entry


def _path() -> Path:
    return settings().root / "bases.yaml"


def _read() -> dict[str, dict[str, str]]:
    entries: dict[str, dict[str, str]] = yaml.safe_load(_path().read_text())["bases"] or {}
    return entries
