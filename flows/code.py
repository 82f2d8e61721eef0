"""Our own code by its digest: what it made is made again when it changes."""

from __future__ import annotations

import ast
import hashlib
import threading
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import components
import edge_targets

_COMPONENTS = Path(components.__file__).parent
_TARGETS = Path(edge_targets.__file__).parent
_PARSING = threading.Lock()
"""Python 3.11 counts the depth of a tree for all threads together, and raises SystemError where two parse at once."""


def extracting() -> str:
    """Of what makes a subnet from a supernet."""
    return digest(_COMPONENTS.parent, imported(_COMPONENTS, (_COMPONENTS / "subnet.py",)))


def packaging(target: str) -> str:
    """Of what makes and runs a target's packages. Targets of one family share them, and so each other's files.

    A workspace may have `components` of its own, elsewhere than the targets are.
    """
    family = edge_targets.load(target).family
    own = [name for name in edge_targets.names() if family and edge_targets.load(name).family == family] or [target]
    files = shared(_TARGETS, own)
    return f"{digest(_TARGETS.parent, files)} {digest(_COMPONENTS.parent, imported(_COMPONENTS, files))}"


def shared(folder: Path, targets: Iterable[str]) -> tuple[Path, ...]:
    """What all targets share, requirements included, and the files of those named; another's changes nothing here."""
    found = sorted(path for ending in ("py", "sh", "txt") for path in folder.rglob(f"*.{ending}"))
    own = {f"{target}.py" for target in targets}
    return tuple(path for path in found if path.parent != folder or path.name.startswith("_") or path.name in own)


@cache
def imported(package: Path, files: tuple[Path, ...]) -> tuple[Path, ...]:
    """The modules of a package that these files import, wherever in them, and those that these import in turn; sorted."""
    found: set[Path] = set()
    waiting = [path for path in files if path.suffix == ".py"]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += [package / f"{name}.py" for name in _names(path, package) if (package / f"{name}.py").is_file()]
    return tuple(sorted(path for path in found if path.parent == package))


def digest(root: Path, files: Iterable[Path]) -> str:
    total = hashlib.sha256()
    for path in files:
        total.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return total.hexdigest()


def _names(path: Path, package: Path) -> Iterator[str]:
    with _PARSING:
        tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            first, _, rest = node.module.partition(".")
            if first == package.name:
                yield from [rest.partition(".")[0]] if rest else [alias.name for alias in node.names]
