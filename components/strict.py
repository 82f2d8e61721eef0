"""What people write, held strictly against the type that it is read into: text is no number, and no key is left over."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

T = TypeVar("T")
_WORDS = {int: "a whole number", float: "a number", bool: "true or false"}


class SlipError(Exception):
    """A file that people write is not as it must be; the message names the file, the key, what it is and what is wanted."""


def read(path: Path) -> dict[str, Any]:
    """A YAML file of keys and values; an empty one has none. Raises SlipError."""
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise SlipError(f"{path.name}: {line}this is no YAML: {error.problem or error.context}") from error
    return mapping({} if values is None else values, path.name)


def mapping(values: Any, where: str) -> dict[str, Any]:
    """`values`, which are keys and values. Raises SlipError."""
    if not isinstance(values, dict):
        raise SlipError(f"{where} is {values!r}; wanted keys and their values")
    return values


def part(values: Any, key: str, where: str) -> Any:
    """What is under a key. Raises SlipError naming the nearest there is."""
    if key not in mapping(values, where):
        raise SlipError(f"{where} has no {key}{_near(key, values, 'the nearest there is ')}")
    return values[key]


def checked(kind: type[T], given: Any, where: str) -> T:
    """A dataclass, and those in it, of what is `given`; `where` is its file and key. Raises SlipError for the first slip."""
    from pydantic import TypeAdapter, ValidationError

    _check_keys(kind, given, where)
    try:
        return TypeAdapter(kind).validate_json(json.dumps(given, default=str), strict=True)
    except ValidationError as error:
        told = _told(kind, error.errors()[0], where)
    raise SlipError(told)


def wanted(kind: Any, limits: Iterable[Any] = ()) -> str:
    """What a value of a type is called: `a whole number over 0`."""
    over = "".join(f" over {limit.gt}" for limit in limits if hasattr(limit, "gt"))
    return _called(without_none(kind)) + over


def without_none(kind: Any) -> Any:
    """The type of a value that may be missing."""
    if get_origin(kind) not in (Union, UnionType):
        return kind
    return next(one for one in get_args(kind) if one is not NoneType)


def _called(kind: Any) -> str:
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return f"{', '.join(map(str, parts[:-1]))} or {parts[-1]}"
    if origin in (dict, Mapping):
        return f"keys, each with {wanted(parts[1])}"
    if origin in (list, tuple, Sequence):
        return f"a list, each {wanted(parts[0])}"
    return "keys and their values" if is_dataclass(kind) else _WORDS.get(kind, "text")


def _check_keys(kind: Any, given: Any, where: str) -> None:
    kinds = get_type_hints(kind)
    known = {field.name: field for field in fields(kind)}
    for key in mapping(given, where):
        if key not in known:
            raise SlipError(f"{_under(where, [key])} is not known{_near(str(key), known, 'did you mean ', '?')}")
    for name, field in known.items():
        if name in given and is_dataclass(kinds[name]):
            _check_keys(kinds[name], given[name], _under(where, [name]))
        elif name not in given and field.default is MISSING and field.default_factory is MISSING:
            raise SlipError(f"{_under(where, [name])} is missing; wanted {wanted(kinds[name])}")


def _told(kind: Any, slip: ErrorDetails, where: str) -> str:
    place = _under(where, slip["loc"])
    if "error" in slip.get("ctx", {}):
        return f"{place}: {slip['ctx']['error']}"
    for key in slip["loc"]:
        inner = get_args(without_none(kind))
        kind = get_type_hints(kind)[str(key)] if is_dataclass(kind) else inner[1 if isinstance(key, str) else 0]
    return f"{place} is {slip['input']!r}; wanted {wanted(kind)}{_as_number(kind, slip['input'])}"


def _as_number(kind: Any, value: Any) -> str:
    """How a number is written that YAML takes for text, as it does 2e-4."""
    if kind not in _WORDS or not isinstance(value, str):
        return ""
    try:
        number = float(value)
    except ValueError:
        return ""
    whole = kind is int and number.is_integer()
    return f", as {yaml.safe_dump(int(number) if whole else number).split()[0]} is; YAML takes this for text"


def _under(where: str, keys: Iterable[Any]) -> str:
    """`params.yaml: gate` and `pairs`, 1 are `params.yaml: gate.pairs[1]`."""
    for key in keys:
        where += f"[{key}]" if isinstance(key, int) else f".{key}" if ":" in where else f": {key}"
    return where


def _near(key: str, known: Iterable[Any], before: str, after: str = "") -> str:
    near = difflib.get_close_matches(key, [str(one) for one in known], n=1)
    return (
        f"; {before}{near[0]}{after}" if near else f"; it has {', '.join(map(str, known)) or 'nothing'}" * (not after)
    )
