"""The fault table of a session: AMOEBA_FAULT_TABLE names the file it is written to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.tally import Outcome, table


@pytest.fixture(scope="session")
def outcomes() -> Iterator[dict[str, Outcome]]:
    """By case; written at the session's end."""
    found: dict[str, Outcome] = {}
    yield found
    if "AMOEBA_FAULT_TABLE" in os.environ:
        Path(os.environ["AMOEBA_FAULT_TABLE"]).write_text(table(found))
