"""What people read is what was written: a table changes no letter of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from components.frontier import Point
from flows import tables
from flows.doctor import Finding
from flows.explored import Explored, Member, Predicted, Reference, Samples
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


def test_a_device_s_figures_are_not_shown_as_a_prediction_for_the_host(capsys: pytest.CaptureFixture[str]) -> None:
    point = Point("d4w100", "int8", 20.0, 0.6, (0.5, 0.7), 100.0, 8.0, 300.0, 130.0, "host")
    member = Member("3", point, Predicted(21.0, 8.2, 150.0, 380.0, "host"), Samples({}, (), (), ()))
    reference = Reference(19.0, 0.6, (0.5, 0.7), (), ())
    found = Explored(
        "tiny", "x86_avx512", "ab.dir", "cd.dir", {"processor": "one", "threads": 2}, reference, (member,), ()
    )
    tables.explored(found)
    printed = capsys.readouterr().out
    assert "20.00 (21.00)" in printed
    assert "8.0 (8.2)" in printed
    device = replace(member, predicted=replace(member.predicted, machine="device"))
    tables.explored(replace(found, members=(device,)))
    printed = capsys.readouterr().out
    assert "20.00 (21.00)" in printed
    assert "8.0 " in printed
    assert not any(f"({expected})" in printed for expected in ("8.2", "150", "380"))
