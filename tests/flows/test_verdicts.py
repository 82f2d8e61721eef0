from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import pytest

from components.gate import Figure
from components.paired import Worsening
from flows import verdicts
from flows.check import Checked

HOLDS = Figure("tpot_ms", 6.5, 6.6, Worsening(0.015, -0.01, 0.04, 0.2, 6), 0.05, 0.8, "holds", "runs")
REGRESSED = Figure(
    "accuracy", 0.6, 0.55, Worsening(0.05, 0.03, 0.07, 0.001, 400), 0.02, 0.004, "regressed", "questions"
)
UNDECIDED = Figure("ttft_ms", 150, 160, Worsening(0.06, -0.02, 0.1, 0.1, 6), 0.05, 0.5, "inconclusive", "runs")
SPITEFUL = "m](javascript:x) | <b> `@all`\n::error::50 %\x00"


def checked(*figures: Figure, reason: str = "") -> Checked:
    return Checked("m--x86", "regressed", "version 1", "version 2", figures, reason)


def _parsed(document: bytes) -> ElementTree.Element:
    return ElementTree.fromstring(document)  # noqa: S314  (our own bytes)


def test_a_worsening_is_said_in_its_figures_own_unit() -> None:
    assert verdicts.worsening(HOLDS) == "+1.5 % [-1.0, +4.0]"
    assert verdicts.worsening(REGRESSED) == "+5.0 points [+3.0, +7.0]"
    assert verdicts.margin(REGRESSED) == "2 points"


def test_what_is_undecided_says_what_would_decide_it() -> None:
    needed = UNDECIDED.needed
    assert needed is not None
    assert verdicts.outcome(UNDECIDED) == f"inconclusive: about {needed} runs would tell, 6 were measured"
    assert verdicts.outcome(HOLDS) == "holds"


def test_a_test_report_has_a_case_a_figure_and_counts_what_does_not_hold() -> None:
    report = _parsed(verdicts.junit("m", [checked(HOLDS, REGRESSED, UNDECIDED, reason="no clock")]))
    (suite,) = report.findall("testsuite")
    assert suite.attrib == {"name": "m--x86", "tests": "4", "failures": "1", "errors": "2"}
    cases = {case.attrib["name"]: [part.tag for part in case] for case in suite.findall("testcase")}
    assert cases == {"tpot_ms": [], "accuracy": ["failure"], "ttft_ms": ["error"], "measured": ["error"]}
    (failure,) = suite.iter("failure")
    assert (
        failure.attrib["message"]
        == "accuracy 0.6 -> 0.55, worse by +5.0 points [+3.0, +7.0], 2 points allowed: regressed"
    )


def test_a_comment_is_one_table_an_artifact() -> None:
    text = verdicts.markdown("m", "regressed", [checked(HOLDS, REGRESSED)])
    assert text.startswith("### ❌ amoeba check m: regressed\n")
    assert "**m--x86**: version 2 against version 1" in text
    assert "| accuracy | 0.6 | 0.55 | +5.0 points [+3.0, +7.0] | 2 points | ❌ regressed |" in text
    assert "Nothing of m is published" in verdicts.markdown("m", "could not measure", [])


def test_only_what_does_not_hold_is_annotated() -> None:
    lines = verdicts.github_annotations([checked(HOLDS, REGRESSED, UNDECIDED)])
    assert [line.split(" ")[0] for line in lines] == ["::error", "::warning"]
    assert lines[0].startswith("::error title=m--x86::accuracy 0.6 -> 0.55, worse by +5.0 points")
    assert "2 points allowed" in lines[0]


def test_text_from_elsewhere_is_no_markup_and_no_command() -> None:
    one = replace(checked(reason=SPITEFUL), registered_model=SPITEFUL)
    comment = verdicts.markdown(SPITEFUL, "could not measure", [one])
    assert "<b>" not in comment
    assert "](" not in comment.replace("\\](", "")
    assert "\n::error" not in comment
    (line,) = verdicts.github_annotations([one])
    assert "\n" not in line
    assert line.count("::error") <= line.count("%0A%3A%3Aerror") + line.count("%0A::error")
    _parsed(verdicts.junit(SPITEFUL, [one]))


@pytest.mark.parametrize("verdict", ["holds", "regressed", "inconclusive", "could not measure"])
def test_every_verdict_has_a_sign(verdict: str) -> None:
    assert verdicts.markdown("m", verdict, [])  # type: ignore[arg-type]
