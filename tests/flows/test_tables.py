"""What people read is what was written: a table changes no letter of it."""

from __future__ import annotations

import pytest

from flows import tables
from flows.doctor import Finding
from registry.promotions import Promotion


def promotion(reason: str) -> Promotion:
    return Promotion(
        model="tiny--x86_avx512",
        serial=1,
        alias="production",
        version="1",
        manifest="0" * 64,
        before=None,
        reason=reason,
        by="somebody",
        at="2026-01-01T00:00:00+00:00",
    )


def test_a_remedy_is_printed_so_that_it_can_be_run(capsys: pytest.CaptureFixture[str]) -> None:
    remedy = "pip install -c constraints.txt -e '.[build]'"
    tables.examined([Finding("torch", False, "not installed", remedy)])
    assert remedy in capsys.readouterr().out


@pytest.mark.parametrize("reason", ["revert [skip ci]", "see [/tmp/x]", "[bold]loud[/bold]", "as :smile: was"])
def test_a_reason_is_printed_as_it_was_given(reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    tables.promotions([promotion(reason)])
    assert reason in capsys.readouterr().out
