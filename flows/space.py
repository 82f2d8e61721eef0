"""Room on the disk, asked for before any work."""

from __future__ import annotations

import shutil
from pathlib import Path

_SERVICES_BYTES = 100_000_000
"""What the embedded Prefect and MLflow databases and the logs need."""
_COPIES_OF_THE_BASE = 3
"""Supernet, float subnets, packages and their copies in registry and DVC cache: 1.6 measured on SmolLM2-135M, 3 targets."""


class SpaceError(Exception):
    """The disk is too full for what is about to be written."""


def ensure_space(folder: Path, base_bytes: int = 0) -> None:
    """Raises SpaceError unless the disk of `folder` has room to onboard a base whose files hold `base_bytes`."""
    wanted = _SERVICES_BYTES + _COPIES_OF_THE_BASE * base_bytes
    free = shutil.disk_usage(folder).free
    if free < wanted:
        raise SpaceError(
            f"the disk of {folder} has {free / 1e9:.1f} GB free and this needs {wanted / 1e9:.1f} GB; make room, "
            "or name another folder in AMOEBA_WORKSPACE, and run the same command again"
        )
