"""What a folder has seen of the registry is never forgotten."""

from dataclasses import replace
from pathlib import Path

import pytest

from registry import seen
from registry.errors import SignatureError
from registry.keys import KeyFile, make_key
from registry.promotions import PRODUCTION, Promotion
from registry.trust import Trust

NINTH = Promotion(
    "tiny--x86", 9, PRODUCTION, "3", "ab" * 32, None, "published", "ada@host", "2026-01-01T00:00:00+00:00"
)
SEVENTH, EIGHTH = (replace(NINTH, serial=serial) for serial in (7, 8))


@pytest.fixture
def trust(tmp_path: Path) -> Trust:
    return Trust((KeyFile(make_key("lab", tmp_path / "keys")[0]).read().public,))


def test_a_slow_pull_of_an_older_record_makes_no_other_forgotten(tmp_path: Path, trust: Trust) -> None:
    to = tmp_path / "device"
    seen.check(to, SEVENTH, trust)
    seen.note(to, NINTH, trust)  # by another process, meanwhile
    seen.note(to, SEVENTH, trust)
    with pytest.raises(SignatureError, match=r"promotion 8 .* is the newest, and .* has seen 9"):
        seen.check(to, EIGHTH, trust)


def test_a_line_that_cannot_be_read_takes_no_other_with_it(tmp_path: Path, trust: Trust) -> None:
    to = tmp_path / "device"
    seen.note(to, NINTH, trust)
    with (tmp_path / ".device.promotion").open("ab") as file:
        file.write(b'\n{"format_version":2}\n\xff')
    with pytest.raises(SignatureError, match="has seen 9"):
        seen.check(to, EIGHTH, trust)
    seen.check(to, NINTH, trust)
