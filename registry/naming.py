"""What things are called in the registry.

1. A base's or a target's name holds no `--`, so a registered model's name is read in one way only.
2. No name can mean something else in a filter, a URL or a path.
"""

from __future__ import annotations

import re

from registry.errors import RefusedError

_MOST_CHARACTERS = 100
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._]*(-[A-Za-z0-9._]+)*")
_ALIAS = re.compile(r"(?!latest$|v[0-9]+$)[a-z][a-z0-9_-]*")


def supernet_model(base: str) -> str:
    """The registered model that holds a base's supernets; raises RefusedError."""
    return _checked(base)


def package_model(base: str, target: str) -> str:
    """The registered model that holds a base's packages for one target: `smollm2-135m--x86_avx512`.

    Raises RefusedError.
    """
    return f"{_checked(base)}--{_checked(target)}"


def check_registered(name: str) -> str:
    """The name as it is when it is a base's, or a base's and a target's; raises RefusedError otherwise."""
    base, separator, target = name.partition("--")
    return package_model(base, target) if separator else supernet_model(base)


def is_registered(name: str) -> bool:
    """Whether a registered model may be called so; others' in the same MLflow may be called anything."""
    try:
        return check_registered(name) == name
    except RefusedError:
        return False


def base_and_target(registered_model: str) -> tuple[str, str]:
    """What a registered model's name says; the target of a supernet's is empty."""
    base, _, target = registered_model.partition("--")
    return base, target


def check_same(registered_model: str, base: str, target: str | None) -> None:
    """Raise RefusedError when a manifest of this base and target stands under another registered model's name."""
    own = package_model(base, target) if target else supernet_model(base)
    if own != registered_model:
        raise RefusedError(
            f"the manifest under {registered_model} is one of {own}: another model's bytes; "
            f"ask for {own}, or publish {registered_model} again"
        )


def check_alias(name: str) -> str:
    """The name as it is when an alias may have it; raises RefusedError. MLflow keeps `latest` and `v1` for itself."""
    if len(name) > _MOST_CHARACTERS or not _ALIAS.fullmatch(name):
        raise RefusedError(
            f"{name[:80]!r} is no alias: small letters, digits, dashes and underscores, a letter first; "
            "`latest` and `v` with a number are MLflow's own"
        )
    return name


def _checked(name: str) -> str:
    if len(name) > _MOST_CHARACTERS or not _NAME.fullmatch(name):
        raise RefusedError(
            f"{name[:80]!r} is no registry name: up to {_MOST_CHARACTERS} letters, digits, dots and underscores, "
            "joined by single dashes"
        )
    return name
