"""Room on the disk, asked for before any work."""

from __future__ import annotations

import shutil
from pathlib import Path

_SERVICES_BYTES = 100_000_000
"""What the embedded Prefect and MLflow databases and the logs need."""
_ONCE, _A_PACKAGE = 4, 2
"""Bytes a weight: a float subnet and the supernet's adapters; a package as it was built, named and published."""


class SpaceError(Exception):
    """The disk is too full for what is about to be written."""


def ensure_space(folder: Path, weights: int = 0, packages: int = 0) -> None:
    """Raises SpaceError unless the disk of `folder` has room to make so many packages of a base of so many weights."""
    wanted = _SERVICES_BYTES + weights * (_ONCE + _A_PACKAGE * packages)
    free = shutil.disk_usage(folder).free
    if free < wanted:
        raise SpaceError(
            f"the disk of {folder} has {free / 1e9:.1f} GB free and this needs {wanted / 1e9:.1f} GB; make room, "
            "or name another folder in AMOEBA_WORKSPACE, and run the same command again"
        )
