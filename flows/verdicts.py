"""A gate's verdict where people look for it: a test report, a pull request's comment, annotations of a GitHub run."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING
from xml.etree import ElementTree

if TYPE_CHECKING:
    from components.gate import Figure
    from flows.check import Checked, Verdict

_SIGNS = {"holds": "✅", "regressed": "❌", "inconclusive": "❔", "could not measure": "❔"}


def worsening(figure: Figure) -> str:
    """How much worse, in the figure's own unit: `+1.2 % [-0.3, +2.7]`."""
    unit = "points" if figure.name == "accuracy" else "%"
    worse = figure.worsening
    low, high = (f"{100 * value:+.1f}" for value in (worse.low, worse.high))
    return f"{100 * worse.estimate:+.1f} {unit} [{low}, {high}]"


def margin(figure: Figure) -> str:
    return f"{100 * figure.margin:g} {'points' if figure.name == 'accuracy' else '%'}"


def outcome(figure: Figure) -> str:
    """The verdict; where there is none, how much would have to be measured for one."""
    if figure.verdict != "inconclusive":
        return figure.verdict
    if figure.needed is None:
        return f"{figure.verdict}: too near to what is allowed for any number of {figure.pairs_of} to tell"
    return (
        f"{figure.verdict}: about {figure.needed} {figure.pairs_of} would tell, {figure.worsening.pairs} were measured"
    )


def succession(one: Checked) -> tuple[str, ...]:
    """What became of the members of the baseline's frontier."""
    return tuple(
        f"{successor.shape} {successor.quantization}: version {successor.baseline} {successor.outcome}, "
        f"version {successor.candidate}"
        for successor in one.successors
    )


def junit(model: str, checked: Sequence[Checked]) -> bytes:
    """One test suite an artifact and one case a figure; what is no proof that it holds is a failure or an error."""
    suites = ElementTree.Element("testsuites", name=_printable(f"amoeba check {model}"))
    for one in checked:
        name = _printable(one.registered_model)
        suite = ElementTree.SubElement(suites, "testsuite", name=name)
        for figure in one.figures:
            case = ElementTree.SubElement(suite, "testcase", classname=name, name=figure.name)
            if figure.verdict != "holds":
                kind = "failure" if figure.verdict == "regressed" else "error"
                ElementTree.SubElement(case, kind, type=figure.verdict, message=_printable(_sentence(figure)))
        if one.reason or not one.figures:
            case = ElementTree.SubElement(suite, "testcase", classname=name, name="measured")
            ElementTree.SubElement(case, "error", type=one.verdict, message=_printable(one.reason))
        cases = suite.findall("testcase")
        failures, errors = (sum(case.find(kind) is not None for case in cases) for kind in ("failure", "error"))
        suite.attrib.update(tests=str(len(cases)), failures=str(failures), errors=str(errors))
    ElementTree.indent(suites)
    document: bytes = ElementTree.tostring(suites, encoding="utf-8", xml_declaration=True)
    return document + b"\n"


def markdown(model: str, verdict: Verdict, checked: Sequence[Checked]) -> str:
    """A comment for a pull request."""
    lines = [f"### {_SIGNS[verdict]} amoeba check {_cell(model)}: {verdict}", ""]
    for one in checked:
        against = f": {one.candidate} against {one.baseline}" if one.figures else ""
        lines += [f"**{_cell(one.registered_model)}**{_cell(against)}", ""]
        if one.reason:
            lines += [f"{_SIGNS[one.verdict]} {_cell(one.reason)}", ""]
        if one.figures:
            lines += ["| figure | baseline | now | worse by | allowed | verdict |", "|---|--:|--:|--:|--:|---|"]
            lines += [_row(figure) for figure in one.figures]
            lines.append("")
        if became := succession(one):
            lines += [*(f"- {_cell(line)}" for line in became), ""]
    if not checked:
        lines += [f"Nothing of {_cell(model)} is published; `amoeba onboard` does that.", ""]
    return "\n".join(lines)


def github_annotations(checked: Sequence[Checked]) -> tuple[str, ...]:
    """GitHub's workflow commands, one for whatever does not hold."""
    lines = []
    for one in checked:
        for figure in (figure for figure in one.figures if figure.verdict != "holds"):
            level = "error" if figure.verdict == "regressed" else "warning"
            lines.append(f"::{level} title={_property(one.registered_model)}::{_command(_sentence(figure))}")
        if one.reason:
            lines.append(f"::warning title={_property(one.registered_model)}::{_command(one.reason)}")
    return tuple(lines)


def _sentence(figure: Figure) -> str:
    return (
        f"{figure.name} {figure.baseline:.4g} -> {figure.candidate:.4g}, worse by {worsening(figure)}, "
        f"{margin(figure)} allowed: {outcome(figure)}"
    )


def _row(figure: Figure) -> str:
    values = f"{figure.baseline:.4g} | {figure.candidate:.4g}"
    return (
        f"| {figure.name} | {values} | {worsening(figure)} | {margin(figure)} "
        f"| {_SIGNS[figure.verdict]} {outcome(figure)} |"
    )


def _cell(text: str) -> str:
    """Text that is no markup, no mention and no end of a cell."""
    return re.sub(r"([\\`*_\[\]|@#])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


def _printable(text: str) -> str:
    """XML knows no control characters, not even escaped."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)


def _command(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _command(text).replace(":", "%3A").replace(",", "%2C")
