"""Which errors are a user's to mend, and what they are told."""

from __future__ import annotations

import errno
import importlib.metadata
import re

from flows.settings import WorkspaceError


def explained(error: BaseException) -> str | None:
    """One line for trouble that is expected, None for a fault of ours that needs its traceback."""
    from registry.errors import RegistryError

    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"the disk is full ({error.filename or error}); make room and run the same command again: it goes on from here"
    if isinstance(error, ModuleNotFoundError):
        return f"this needs {error.name}, which is not installed; {_install_line(error.name or '')}"
    if isinstance(error, (RegistryError, WorkspaceError, ValueError)):
        return str(error)
    if type(error).__module__.split(".")[0] in ("components", "edge_targets", "flows"):
        return str(error)
    if isinstance(error, OSError):
        return str(error)
    return None


def _install_line(module: str) -> str:
    """The extra that brings a module, from this distribution's own metadata."""
    wanted = module.split(".")[0].replace("_", "-").lower()
    for requirement in importlib.metadata.requires("amoeba-edge") or ():
        name = re.match(r"[\w.-]+", requirement)
        extra = re.search(r"extra == ['\"](\w+)['\"]", requirement)
        if name and extra and name[0].lower() == wanted:
            return f"pip install -c constraints.txt -e '.[{extra[1]}]' brings it"
    return "pip install -c constraints.txt -e '.[build,x86,phone]' brings what is needed"
