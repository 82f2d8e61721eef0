"""Which errors are a user's to mend, and what they are told."""

from __future__ import annotations

import importlib.metadata
import os
import re

from components.files import disk_ran_full
from flows.settings import WorkspaceError
from flows.space import SpaceError


def explained(error: BaseException) -> str | None:
    """One line for trouble that is expected, None for a fault of ours that needs its traceback."""
    from registry.errors import NoSpaceError, RegistryError

    if isinstance(error, (NoSpaceError, SpaceError)):
        return str(error)
    if disk_ran_full(error):
        return (
            f"the disk is full ({_first_line(error)}); make room and run the same command again: it goes on from here"
        )
    if isinstance(error, ModuleNotFoundError):
        return f"this needs {error.name}, which is not installed; {_install_line(error.name or '')}"
    if isinstance(error, (RegistryError, WorkspaceError, ValueError)):
        return str(error)
    if (said := _said_of_prefect(error)) is not None:
        return said
    if type(error).__module__.split(".")[0] in ("components", "edge_targets", "flows"):
        return str(error)
    if isinstance(error, OSError):
        return str(error)
    return None


def reason(error: object) -> str:
    """Why a target failed, in one line whatever it was."""
    return (explained(error) if isinstance(error, BaseException) else None) or str(error)


def _said_of_prefect(error: BaseException) -> str | None:
    """A server that is away, or that refuses; its client's errors share no base class, and are not imported to ask."""
    from registry.reaching import shown

    kind, server = type(error), f"the Prefect server at {shown(os.environ.get('PREFECT_API_URL', 'no address'))}"
    said = shown(_first_line(error))
    if kind.__name__ == "PrefectHTTPStatusError":
        return f"{server} refused ({said}); check PREFECT_API_AUTH_STRING and PREFECT_API_URL"
    if kind.__module__.split(".")[0] == "httpx" or said.startswith("Failed to reach API"):
        return f"{server} does not answer ({said or kind.__name__}); check PREFECT_API_URL and the server"
    return None


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")


def _install_line(module: str) -> str:
    """The extra that brings a module, from this distribution's own metadata."""
    wanted = module.split(".")[0].replace("_", "-").lower()
    for requirement in importlib.metadata.requires("amoeba-edge") or ():
        name = re.match(r"[\w.-]+", requirement)
        extra = re.search(r"extra == ['\"](\w+)['\"]", requirement)
        if name and extra and name[0].lower() == wanted:
            return f"pip install -c constraints.txt -e '.[{extra[1]}]' brings it"
    return "pip install -c constraints.txt -e '.[build,x86,jetson,phone,sign]' brings what is needed"
