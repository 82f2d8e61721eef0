"""The page as text: what it says, that whatever it is told stays text, and that it loads nothing."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from fixtures.reporting import MIXED, report, spot
from justhtml import JustHTML

from flows.choosing import PASSED_OVER
from flows.report import figures, frontier, gate, words
from flows.report.frame import Labels
from flows.report.page import Pictures, page
from flows.report.record import DrawnLayer, DrawnShape, Report, Weighed

STYLES = Path(__file__).parents[2] / "flows" / "report" / "templates"
ATTACK = """</style></title></svg><script>document.title="run"</script><img src=x onerror=run()>'" onload=run() javascript:run()"""


@cache
def whole() -> str:
    return page(report())


@cache
def parsed() -> Any:
    """Strict: one error of HTML anywhere in the page, and there is none."""
    return JustHTML(whole(), strict=True, sanitize=False)


def every(document: Any, selector: str = "*") -> list[Any]:
    return list(document.query(selector))


def told(document: Any) -> str:
    return " ".join(str(document.query("body")[0].to_text()).split())


def test_the_page_is_html_without_a_single_error() -> None:
    assert parsed().query("html")[0].attrs["lang"] == "en"


def test_the_same_report_is_the_same_page() -> None:
    assert page(report()) == whole()


def test_identifiers_are_unique_and_everything_that_is_named_is_there() -> None:
    identifiers = [element.attrs["id"] for element in every(parsed()) if "id" in element.attrs]
    assert len(identifiers) == len(set(identifiers))
    for element in every(parsed()):
        for name in element.attrs.get("aria-labelledby", "").split():
            assert name in identifiers
        if element.attrs.get("href", "").startswith("#"):
            assert element.attrs["href"][1:] in identifiers


def test_headings_go_down_one_step_at_a_time_under_one_first() -> None:
    levels = [int(element.name[1]) for element in every(parsed()) if re.fullmatch("h[1-6]", element.name)]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_every_drawing_says_what_it_shows_and_every_table_is_in_a_region_a_keyboard_reaches() -> None:
    drawings = every(parsed(), "svg[role=img]")
    assert len(drawings) == 2 * len(Pictures.of(report()).all)
    for one in drawings:
        assert one.query("title")[0].to_text().strip()
        assert one.query("desc")[0].to_text().strip()
    for one in every(parsed(), "svg"):
        assert one.attrs.get("role") == "img" or one.attrs.get("aria-hidden") == "true"
    tables = every(parsed(), "table")
    assert len(every(parsed(), "div.scroll[role=region][tabindex='0'] table")) == len(tables) > 10
    assert all(one.query("caption")[0].to_text().strip() for one in tables)
    assert all(one.attrs["scope"] in ("row", "col") for one in every(parsed(), "th"))


def attacked(value: Any) -> Any:
    """The same report with the attack in every text that no code of ours decides."""
    if isinstance(value, tuple):
        return tuple(attacked(one) for one in value)
    if is_dataclass(value) and not isinstance(value, type):
        kept = {"measured_on", "machine", "status", "alias", "aliases"}
        changed = {one.name: attacked(getattr(value, one.name)) for one in fields(value) if one.name not in kept}
        return replace(value, **changed)
    return f"{value}{ATTACK}" if isinstance(value, str) else value


def test_whatever_a_registry_says_stays_text() -> None:
    document = JustHTML(page(attacked(report())), strict=True, sanitize=False)
    assert not every(document, "script")
    assert not every(document, "img")
    assert len(every(document, "style")) == len(every(document, "title")) - len(every(document, "svg title")) == 1
    for element in every(document):
        assert not [name for name in element.attrs if name.startswith("on") or name in ("src", "style", "action")]
        assert element.attrs.get("href", "#")[0] == "#" or element.attrs["href"] == "data:,"
    clean = " ".join(ATTACK.split())
    assert told(document).count(clean) > 100
    for picture in Pictures.of(attacked(report())).all:
        assert not every(JustHTML(picture.standing_alone(), fragment=True, sanitize=False), "script")
    assert "<script" not in figures.markdown(attacked(report()))


def test_nothing_is_loaded_from_anywhere() -> None:
    policy = parsed().query("meta[http-equiv=Content-Security-Policy]")[0].attrs["content"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert not re.search(r"(?:src|href|xlink:href|action|data|poster)=\"(?!#|data:,)", whole())
    assert not re.search(r"url\(|@import|https?://|//[a-z]", whole())
    assert {element.name for element in every(parsed())}.isdisjoint(
        {"script", "iframe", "object", "embed", "base", "form"}
    )


def test_every_section_shows_its_figures() -> None:
    said = told(parsed())
    for expected in (
        "x86-64 with AVX-512 VNNI (four-core laptop) gets the whole model, in int8",
        "Its quality is not known: nothing but the device runs it.",
        "It is candidate: nothing is in production.",
        "1.01 times the full model's 21.4",
        "11.2 ms a token (89 tokens a second), predicted from the device's figures, not measured",
        "3 predicted from what ran on the machine that built the others, not measured: 1.900 to 4.100 ms a token",
        "predicted for the host",
        "version 9 against version 7",
        "regressed",
        "inconclusive",
        "Left out: version 2: its times are of another machine",
        "layer 5: no attention",
        "60 of 100",
        "16 candidates considered. d30w100 in int4 was predicted to take 5.40 ms a token",
        "df6a7fbc5132bcf0c1e607e28e16129d.dir",
    ):
        assert expected in said, expected


def test_a_report_of_nothing_says_what_to_do() -> None:
    empty = Report("tiny", None, None, None, (), (), (), ())
    document = JustHTML(page(empty), strict=True, sanitize=False)
    assert "Nothing is released for any target. amoeba onboard does that." in told(document)
    assert figures.metrics(empty) == {}
    assert Pictures.of(empty).all == ()


def test_why_one_was_chosen_is_true_where_better_ones_were_refused_or_passed_over() -> None:
    made, target = report(), report().targets[-1]
    considered = (
        Weighed("d30w100", "int4", 20.0, 5.0, 300.0, "device", "built, and is too far from its float subnet", False),
        Weighed("d30w75", "int4", 25.0, 4.0, 280.0, "device", PASSED_OVER, False),
        Weighed("d20w50", "int8", 40.0, 4.0, 280.0, "device", "chosen", True),
    )
    release = replace(target.releases[0], considered=considered)
    said = told(JustHTML(page(replace(made, targets=(replace(target, releases=(release,)),))), sanitize=False))
    assert "has the least perplexity of those that fit and were neither refused nor passed over" in said
    assert (
        "Left: 1 built and refused; 1 passed over, as another shape in their quantization is too far from float" in said
    )


def test_what_was_measured_differently_is_not_compared() -> None:
    made = report()
    target = made.targets[-1]
    production = target.releases[0]
    elsewhere = replace(production, alias="candidate", machine="another", data_revision="another")
    changed = replace(made, targets=(replace(target, releases=(production, elsewhere)),))
    said = told(JustHTML(page(changed), strict=True, sanitize=False))
    assert said.count("not compared: measured differently") == 3
    assert said.count("not compared: on different text") == 2


def test_a_quality_on_another_text_has_no_ratio_to_the_full_model() -> None:
    made = report()
    release = made.targets[0].releases[0]
    other = replace(release, spot=replace(release.spot, same_text=False))
    assert "times the full model" in words.released("A", release, made.full, 30)
    assert "on another text than the full model's" in words.released("A", other, made.full, 30)
    assert "times the full model" not in words.released("A", other, made.full, 30)


def test_kinds_of_measurement_have_shapes_of_their_own_and_no_line_joins_them() -> None:
    (picture, _) = frontier.pictures(report().targets[-1], report().full)
    marks = JustHTML(str(picture.wide), fragment=True, sanitize=False)
    kinds = {"host": "circle", "device": "rect", "predicted": "path"}
    for kind, tag in kinds.items():
        found = [one for one in every(marks) if f"mark {kind}" in one.attrs.get("class", "")]
        assert found
        assert {one.name for one in found} == {tag}
    joined = [one.attrs["class"] for one in every(marks) if "steps" in one.attrs.get("class", "")]
    assert joined == ["steps host"]  # one point alone of the device, and what was predicted is never joined


def test_a_logarithmic_axis_puts_equal_ratios_equally_far_apart() -> None:
    target = replace(
        report().targets[-1],
        spots=tuple(spot("d30w100", "int8", time, 0.1, 100, str(time)) for time in (2, 4, 8)),
    )
    (picture, _) = frontier.pictures(target, None)
    marks = JustHTML(str(picture.wide), fragment=True, sanitize=False)
    at = [float(one.attrs["cx"]) for one in every(marks, "circle.mark")]
    assert at[1] - at[0] == pytest.approx(at[2] - at[1], abs=0.02)


def test_labels_cover_no_mark_and_no_other_label() -> None:
    labels = Labels((0, 0, 300, 200))
    points = [(50 + 13 * index, 100 + 5 * (index % 3)) for index in range(16)]
    for x, y in points:
        labels.keep_clear(x, y, 6)
    written = [found for x, y in points if (found := labels.beside(x, y, "v1 int4", "label"))]
    boxes = labels._marks
    assert 0 < len(written) <= len(points)
    assert len(boxes) == len(points) + len(written)
    for index, (left, top, right, bottom) in enumerate(boxes[len(points) :], len(points)):
        for other in (*boxes[:index], *boxes[index + 1 :]):
            assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_marks_of_drawings_stand_out_from_the_paper(scheme: str) -> None:
    colours = {name: colour for style in ("page.css", "chart.css") for name, colour in _colours(style, scheme).items()}
    papers = [colours["paper"], colours["raised"]]
    assert colours["paper"] == colours["chart-paper"]
    for name in ("ink", "quiet", "link", "good", "bad", "unclear"):
        assert all(_contrast(colours[name], paper) >= 4.5 for paper in papers), name
    for name in ("text", "quiet", *(f"s{index}" for index in range(6))):
        assert _contrast(colours[f"chart-{name}"], colours["paper"]) >= 4.5, name
    for name in ("host", "device", "predicted", "kept", "ffn", "cache", "axis"):
        assert _contrast(colours[f"chart-{name}"], colours["paper"]) >= 3, name
    for name in ("kept", "ffn"):
        assert _contrast(colours[f"chart-{name}"], colours["chart-empty"]) >= 3, name


def _colours(style: str, scheme: str) -> dict[str, str]:
    """Those of the scheme: the first block is the light one's, the second, where it changes them, the dark one's."""
    light, dark = re.findall(r":root \{([^}]*)\}", (STYLES / style).read_text())[:2]
    found = dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6});", light))
    return found | dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6});", dark)) if scheme == "dark" else found


def _contrast(one: str, other: str) -> float:
    """WCAG 2.2's ratio of relative luminances."""

    def luminance(colour: str) -> float:
        parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_a_drawing_stands_alone_with_its_colours_in_it() -> None:
    for picture in Pictures.of(report()).all:
        alone = picture.standing_alone()
        assert alone.startswith('<svg xmlns="http://www.w3.org/2000/svg" ')
        assert alone.count("<style>") == 1
        assert "--chart-host" in alone


def test_a_shape_is_told_layer_by_layer() -> None:
    whole, half, gone = DrawnLayer(True, 1.0), DrawnLayer(False, 0.5), DrawnLayer(False, 0.0)
    assert words.layer_by_layer(DrawnShape("h44c", (whole, whole, half, gone), ())) == (
        "layers 0 to 1: attention, 100 % of the FFN; layer 2: no attention, 50 % of the FFN; layer 3: gone"
    )
    assert words.shape("d30w100", 30) == "the whole model"
    assert words.shape("d24w75", 30) == "24 of 30 layers, 75 % of the FFN neurons in each"
    assert words.shape(MIXED).startswith("30 of 30 layers, 27 with attention, 77 %")
    assert words.shape("x1") == "the shape x1"


@pytest.mark.parametrize(
    ("value", "said"), [(0.0123, "0.012"), (6.489, "6.49"), (152.3, "152"), (1234.5, "1,234"), (None, "not measured")]
)
def test_a_figure_has_the_digits_that_mean_something(value: float | None, said: str) -> None:
    assert words.number(value) == said


def test_figures_for_other_tools_are_those_of_the_page() -> None:
    metrics = dict(figures.flat(figures.metrics(report())))
    assert metrics["full.perplexity"] == 21.42
    assert metrics["x86_avx512.production.tpot_ms"] == pytest.approx(7.1)
    assert "iphone_coreml.candidate.perplexity" not in metrics
    rows = figures.frontier_rows(report())
    assert len(rows) == 2 * 13
    assert {row["measured_on"] for row in rows} == {"host", "device", "predicted"}
    assert len(figures.training_rows(report())) == 25


OUTCOME = {
    "verdict": "inconclusive",
    "packages": [
        {
            "registered_model": "tiny--x86",
            "verdict": "inconclusive",
            "baseline": "version 1",
            "candidate": "version 2",
            "reason": "no time of this machine",
            "figures": [
                {
                    "name": "accuracy",
                    "baseline": 0.6,
                    "candidate": 0.58,
                    "worsening": {"estimate": 0.02, "low": -0.01, "high": 0.05, "chance": 0.2, "pairs": 200},
                    "margin": 0.03,
                    "chance": 0.4,
                    "verdict": "inconclusive",
                    "pairs_of": "questions",
                }
            ],
        }
    ],
}


def test_a_verdict_of_the_gate_is_read_in_the_figures_own_units(tmp_path: Path) -> None:
    (tmp_path / "check.json").write_text(json.dumps(OUTCOME))
    read = gate.read(tmp_path / "check.json")
    assert (read.verdict, read.status) == ("inconclusive", "unclear")
    figure, reason = read.lines
    assert figure.what == "tiny--x86: version 2 against version 1"
    assert figure.worse == "+2.0 points (\u22121.0 to +5.0)"
    assert figure.allowed == "3 points"
    assert reason.verdict == "inconclusive: no time of this machine"


def test_a_figure_that_is_no_number_is_read_as_such(tmp_path: Path) -> None:
    (tmp_path / "check.json").write_text(json.dumps(OUTCOME).replace("0.58", "null").replace("0.02", "null"))
    figure, _ = gate.read(tmp_path / "check.json").lines
    assert (figure.baseline, figure.now, figure.worse) == ("0.6000", "no number", "no number")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"verdict": "holds", "packages": [{}]}',
        "[" * 100_000,
        json.dumps(OUTCOME).replace("0.58", "NaN"),
    ],
)
def test_a_file_that_is_no_verdict_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "check.json").write_text(content)
    with pytest.raises(gate.GateFileError, match="is no outcome of `amoeba check MODEL --json`"):
        gate.read(tmp_path / "check.json")
