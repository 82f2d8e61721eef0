"""One public module a target; its file name is its name. Nothing is imported until a target is asked for."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_targets._target import Target


_WITH_AN_SDK = {
    "android_qnn": (
        "lowering to Qualcomm's Hexagon processors needs the Qualcomm AI Engine Direct SDK 2.37 or later, its folder in "
        "QNN_SDK_ROOT, and was never run here; android_arm64 and android_vulkan run on the same phones "
        "(docs/decisions/10-phone-backends.md)"
    ),
}
"""Targets one may ask for that are not there, and why."""


def names() -> tuple[str, ...]:
    """Every target there is a file for, sorted."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")))


def load(name: str) -> Target:
    """The target of the file `edge_targets/<name>.py`; raises ValueError naming the nearest one."""
    if name in _WITH_AN_SDK:
        raise ValueError(f"{name} is not built: {_WITH_AN_SDK[name]}")
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names())}"
        raise ValueError(f"no target is called {name!r}; {hint}")
    target: Target = importlib.import_module(f"edge_targets.{name}").TARGET
    if target.name != name:
        raise ValueError(f"edge_targets/{name}.py calls its target {target.name!r}; it must be called as its file")
    return target
