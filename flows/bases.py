"""`bases.yaml`: which bases this workspace ships, each by source, fingerprint and profile."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from components.base import Entry
from components.files import replace_text
from components.progress import say
from components.strict import checked, mapping, part, read
from components.waiting import alone
from flows.settings import settings

if TYPE_CHECKING:
    from components.base import Base

_HEADER = "# The bases this workspace ships, by the name they have in the registry. `amoeba onboard` adds to it.\n"


class UnknownNameError(ValueError):
    """A base or profile nobody has declared; the message names the nearest."""


class NameTakenError(ValueError):
    """Two bases would have one name, and each would replace the other on every device."""


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
    """All of `params.yaml`. Raises SlipError."""
    return read(settings().root / "params.yaml")


def check_profile(profile: str) -> None:
    known = list(mapping(part(parameters(), "profiles", "params.yaml"), "params.yaml: profiles"))
    if profile not in known:
        near = difflib.get_close_matches(profile, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"params.yaml has {', '.join(known)}"
        raise UnknownNameError(f"no profile is called {profile!r}; {hint}")


def declared(name: str) -> Declared:
    bases = _bases()
    if name not in bases:
        near = difflib.get_close_matches(name, bases, n=1)
        hint = f"did you mean {near[0]}?" if near else "`amoeba onboard` declares one"
        raise UnknownNameError(f"no base is called {name!r} in bases.yaml; {hint}")
    return Declared(name, **asdict(bases[name]))


def check_name(base: Base) -> None:
    """Raises NameTakenError where the name is another base's: neither the same bytes, nor of the same source or another folder."""
    known = _bases().get(base.name)
    if known is None or known.fingerprint == base.fingerprint:
        return
    before, now = known.source, _as_kept(base)
    if _without_revision(before) != _without_revision(now):
        if not (Path(before).is_absolute() and Path(now).is_absolute()):
            raise NameTakenError(
                f"{base.name!r} is what {before} is called here, and {now} would take its place on every device; "
                "rename its folder, or remove that entry from bases.yaml to give it the name"
            )
        say(f"{base.name}: {now} takes the place of {before}, which had the name")


def declare(base: Base, profile: str) -> Declared:
    """Add or update a base's entry; the file changes only where the entry does. Raises NameTakenError."""
    check_name(base)
    entry = Entry(_as_kept(base), base.fingerprint, profile)
    if _bases().get(base.name) != entry:
        change(lambda values: values.update(bases={**(values.get("bases") or {}), base.name: asdict(entry)}))
    return Declared(base.name, **asdict(entry))


def entries() -> dict[str, Any]:
    """All of `bases.yaml`. Raises SlipError."""
    return read(_path())


def change(edit: Callable[[dict[str, Any]], None]) -> None:
    """Edit `bases.yaml`; who edits it at the same time waits, and neither's change is lost."""
    with alone(settings().home / "bases.lock", "bases.yaml is being written"):
        values = entries()
        edit(values)
        replace_text(_path(), _HEADER + yaml.safe_dump(values, sort_keys=False))


def _as_kept(base: Base) -> str:
    """Its source; a folder by its whole path."""
    return str(Path(base.source).resolve()) if Path(base.source).is_dir() else base.source


def _without_revision(source: str) -> str:
    return source if Path(source).is_absolute() else source.partition("@")[0]


def _path() -> Path:
    return settings().root / "bases.yaml"


def _bases() -> dict[str, Entry]:
    bases = mapping(entries().get("bases") or {}, "bases.yaml: bases")
    return {name: checked(Entry, entry, f"bases.yaml: bases.{name}") for name, entry in bases.items()}
