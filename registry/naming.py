"""What things are called in the registry."""

from __future__ import annotations

import re

from registry.errors import RefusedError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._]*(-[A-Za-z0-9._]+)*")


def supernet_model(base: str) -> str:
    """The registered model that holds a base's supernets."""
    return _checked(base)


def package_model(base: str, target: str) -> str:
    """The registered model that holds a base's packages for one target: `smollm2-135m--x86_avx512`."""
    return f"{_checked(base)}--{_checked(target)}"


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise RefusedError(f"{name!r} is no registry name: letters, digits, dots and underscores, joined by single dashes")
    return name
