"""What people write, held strictly against the type that it is read into: text is no number, and no key is left over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

_WORDS = {int: "a whole number", float: "a number", bool: "true or false"}


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
        return f"a mapping, each value {wanted(parts[1])}"
    if origin in (list, tuple, Sequence):
        return f"a list, each {wanted(parts[0])}"
    return _WORDS.get(kind, "text")
