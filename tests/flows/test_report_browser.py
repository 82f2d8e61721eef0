"""The page in a real Chromium: nothing overflows, nothing is asked for, and a keyboard and a screen reader get everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fixtures import browser
from fixtures.browser import FOLDER, Page, Scheme, chromium
from fixtures.reporting import report

from flows.report.page import Pictures, page

WIDTHS = (360, 768, 1280)
SCHEMES: tuple[Scheme, ...] = ("light", "dark")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "index.html"
    path.write_text(page(report()))
    return path


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_fits_complains_of_nothing_and_asks_for_nothing(
    tab: Page, written: Path, width: int, scheme: Scheme
) -> None:
    tab.open(written, width, scheme)
    assert tab.run("document.documentElement.scrollWidth") == width
    outside = """[...document.querySelectorAll('main *, header *, nav *')].filter(one => {
        const box = one.getBoundingClientRect();
        return box.width > 0 && box.right > innerWidth + 0.5 && !one.closest('.scroll');
    }).map(one => one.outerHTML.slice(0, 80))"""
    assert tab.run(outside) == []
    assert tab.requests == [written.as_uri()]
    assert tab.complaints == []


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", [360, 1280])
def test_axe_finds_nothing_against_accessibility(tab: Page, written: Path, width: int, scheme: Scheme) -> None:
    tab.open(written, width, scheme)
    tab.run("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    tab.run((FOLDER / "axe.min.js").read_text())
    found = tab.run(
        """axe.run().then(done => ({passes: done.passes.length, violations: done.violations.map(
            one => [one.id, one.help, one.nodes.slice(0, 3).map(node => node.html.slice(0, 120))])}))"""
    )
    assert found["violations"] == []
    assert found["passes"] > 20


def test_axe_would_find_what_is_wrong(tab: Page, tmp_path: Path) -> None:
    path = tmp_path / "wrong.html"
    path.write_text(
        "<!doctype html><title>wrong</title><img src='data:,'><p style='color:#bbb;background:#fff'>pale</p>"
    )
    tab.open(path, 1280, "light")
    tab.run((FOLDER / "axe.min.js").read_text())
    violations = tab.run("axe.run().then(done => done.violations.map(one => one.id))")
    assert {"image-alt", "color-contrast", "html-has-lang"} <= set(violations)


def test_the_scheme_and_the_width_change_what_is_drawn(tab: Page, written: Path) -> None:
    seen = set()
    for scheme in SCHEMES:
        tab.open(written, 1280, scheme)
        seen.add(tab.run("getComputedStyle(document.body).backgroundColor"))
        seen.add(tab.run("getComputedStyle(document.querySelector('.wide .mark.host')).fill"))
    assert len(seen) == 4
    shown = "[...document.querySelectorAll('svg[role=img]')].filter(one => one.getClientRects().length).length"
    for width in WIDTHS:
        tab.open(written, width, "light")
        assert tab.run(shown) == len(Pictures.of(report()).all)
        smallest = """Math.min(...[...document.querySelectorAll('svg[role=img]')].filter(one => one.getClientRects().length)
            .map(one => one.getBoundingClientRect().width / one.viewBox.baseVal.width))"""
        assert tab.run(smallest) > 0.84  # text of 11 pixels stays over 9 at any width


def test_a_screen_reader_is_told_of_every_part_by_name(tab: Page, written: Path) -> None:
    tab.open(written, 1280, "light")
    told = tab.told()
    by_role: dict[str, list[str]] = {}
    for node in told:
        by_role.setdefault(node["role"], []).append(node["name"])
    assert {"main", "navigation", "banner", "contentinfo"} <= set(by_role)
    for role in ("image", "region", "table", "link", "navigation", "heading"):
        assert by_role[role], role
        assert all(name.strip() for name in by_role[role]), role
    assert len(by_role["image"]) == len(set(by_role["image"])) == len(Pictures.of(report()).all)
    assert "smollm2-135m: what is released" in by_role["heading"]
    assert {"Summary", "Quality against time", "Lineage"} <= set(by_role["region"])


@pytest.mark.parametrize("width", [360, 1280])
def test_a_keyboard_reaches_every_region_and_shows_where_it_is(tab: Page, written: Path, width: int) -> None:
    tab.open(written, width, "light")
    tab.run("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    wanted = tab.run("document.querySelectorAll('.scroll').length")
    reached, seen = set(), []
    for _ in range(200):
        tab.press("Tab")
        at = tab.run(
            """(() => { const one = document.activeElement; if (one === document.body) return null;
            const style = getComputedStyle(one);
            return {place: [...document.querySelectorAll('*')].indexOf(one), of: one.className, text: one.textContent.slice(0, 20),
                    outline: style.outlineStyle !== 'none' ? parseFloat(style.outlineWidth) : 0,
                    in_sight: one.getBoundingClientRect().top < innerHeight && one.getBoundingClientRect().bottom > 0}; })()"""
        )
        if at is None or at["place"] in reached:
            break
        assert at["outline"] >= 2, at
        assert at["in_sight"], at
        reached.add(at["place"])
        seen.append(at)
    assert seen[0]["text"] == "To the report"
    assert [at["place"] for at in seen] == sorted(reached)  # in the page's own order
    assert sum(at["of"] == "scroll" for at in seen) == wanted


def test_a_wide_table_is_scrolled_with_the_keyboard_and_keeps_its_names_in_sight(tab: Page, written: Path) -> None:
    tab.open(written, 360, "light")
    wide = "[...document.querySelectorAll('.scroll')].find(one => one.scrollWidth > one.clientWidth + 100)"
    tab.run(f"{wide}.focus()")
    tab.press("ArrowRight")
    moved = f"""new Promise(done => {{ let frames = 0; const look = () => {wide}.scrollLeft > 0 || ++frames > 600
        ? done({wide}.scrollLeft) : requestAnimationFrame(look); look(); }})"""
    assert tab.run(moved) > 0
    tab.run(f"{wide}.scrollLeft = 200")
    left = tab.run(f"{wide}.getBoundingClientRect().left")
    assert tab.run(f"{wide}.querySelector('tbody th').getBoundingClientRect().left") == pytest.approx(left, abs=2)


def test_the_policy_stops_what_would_be_loaded_or_run_if_it_got_in(tab: Page, written: Path, tmp_path: Path) -> None:
    """Even where a name became markup, it could do nothing."""
    smuggled = """<script>document.title = "run"</script><img src="https://example.invalid/a.png" onerror="document.title = 'run'">
        <link rel="stylesheet" href="https://example.invalid/a.css"><style>body { display: none }</style>"""
    path = tmp_path / "smuggled.html"
    path.write_text(written.read_text().replace('<main id="main"', f'{smuggled}<main id="main"', 1))
    tab.open(path, 1280, "light")
    assert tab.run("document.title") == "smollm2-135m: what is released"
    assert tab.run("getComputedStyle(document.body).display") == "block"
    elsewhere = {request for request in tab.requests if not request.startswith("file:")}
    assert {tab.stopped[request] for request in elsewhere} == {"csp"}
    assert len([complaint for complaint in tab.complaints if "Content Security Policy" in complaint]) >= 4


def test_a_printed_page_shows_what_was_folded_and_needs_no_colour(tab: Page, written: Path) -> None:
    tab.open(written, 800, "dark", media="print")
    assert tab.run("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    assert tab.run("getComputedStyle(document.querySelector('nav')).display") == "none"
    folded = "[...document.querySelectorAll('details table')].map(one => one.getBoundingClientRect().height)"
    assert min(tab.run(folded)) > 100


def test_a_drawing_of_its_own_is_drawn(tab: Page, tmp_path: Path) -> None:
    for picture in Pictures.of(report()).all[:2]:
        path = tmp_path / "picture.svg"
        path.write_text(picture.standing_alone())
        tab.open(path, 800, "dark")
        assert tab.complaints == []
        assert tab.run("document.documentElement.querySelectorAll('.mark').length") > 8
        fill: Any = tab.run("getComputedStyle(document.documentElement.querySelector('.mark.host')).stroke")
        assert fill == "rgb(134, 189, 245)"


def test_without_a_browser_it_is_said_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browser, "FOLDER", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"run `make test`, or `.* scripts/chromium.py"), chromium(tmp_path):
        pass
