"""The web book in a browser: it asks no other server, everyone can use it, its explorers move, its links lead on."""

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urldefrag

import pytest
from browser import PATIENCE, serve

pytestmark = pytest.mark.lessons
NEEDED = ("sphinx", "myst_nb", "sphinx_book_theme", "sphinx-mathjax-offline", "anywidget")
AXE_TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]
WIDTHS, THEMES = (1400, 420), ("light", "dark")
# `preload` fetches style sheets, some by wrong addresses; no rule asked for here needs it.
AXE = """async (tags) => (await axe.run({ preload: false, runOnly: { type: "tag", values: tags } })).violations.map(
  (v) => v.id + ": " + v.nodes.map((n) => n.target.join(" ") + " " + n.html.slice(0, 120)).slice(0, 3).join(" | "))"""
# What an explorer says: its text, and the values of its handles.
SAYS = """(place) => place.innerText + [...place.querySelectorAll("[role=slider]")].map(
  (h) => h.getAttribute("aria-valuenow") + h.getAttribute("aria-valuetext")).join()"""
WIDER = "(place) => place.scrollWidth > place.clientWidth + 1"
# Axe passes over what is folded, and looks at each word of code by itself; one of each colour is enough.
THIN = """() => {
  document.querySelectorAll("details").forEach((folded) => { folded.open = true; });
  const seen = new Set();
  document.querySelectorAll(".highlight span[class]").forEach((span) => {
    if (seen.has(span.className)) span.replaceWith(...span.childNodes);
    else seen.add(span.className);
  });
  document.body.normalize();
}"""
NO_MOTION = "*, *::before, *::after { transition: none !important; animation: none !important }"


class Site(NamedTuple):
    """The built book."""

    folder: Path
    url: str

    def pages(self) -> list[str]:
        found = (path.relative_to(self.folder) for path in self.folder.rglob("*.html"))
        return sorted(path.as_posix() for path in found if not path.parts[0].startswith("_"))


class Visit(NamedTuple):
    """What was seen of a page at one width."""

    page: str
    width: int
    foreign: list[str]
    errors: list[str]
    violations: list[str]
    too_wide: bool


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing and os.environ.get("REQUIRE_BROWSER") != "1":
        pytest.skip(f"the book needs {', '.join(missing)}: pip install -e '.[lessons]'")
    from minimaskrcnn_lessons.book import build_book

    folder = tmp_path_factory.mktemp("book") / "html"
    build_book(folder)
    with serve(folder) as url:
        yield Site(folder, url)


@pytest.fixture(scope="session")
def visits(site: Site, browser: Any) -> list[Visit]:
    return [_visit(site, browser, page, width) for page in site.pages() for width in WIDTHS]


def _visit(site: Site, browser: Any, name: str, width: int) -> Visit:
    from axe_playwright_python.sync_playwright import Axe

    page = browser.new_page(viewport={"width": width, "height": 900})
    page.set_default_timeout(PATIENCE * 1000)
    asked, errors, violations = [], [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{site.url}/{name}", wait_until="networkidle")
    too_wide = page.evaluate(WIDER, page.query_selector("html"))
    page.add_style_tag(content=NO_MOTION)
    page.evaluate(THIN)
    page.evaluate(Axe().axe_script)
    for theme in THEMES:
        page.evaluate("(theme) => { document.documentElement.dataset.theme = theme }", theme)
        violations += [f"{theme}: {found}" for found in page.evaluate(AXE, AXE_TAGS)]
    page.close()
    foreign = [url for url in asked if not url.startswith((f"{site.url}/", "data:", "blob:"))]
    return Visit(name, width, foreign, errors, violations, too_wide)


def test_pages_ask_no_other_server(visits: list[Visit]) -> None:
    assert {(visit.page, url) for visit in visits for url in visit.foreign} == set()


def test_pages_raise_no_error(visits: list[Visit]) -> None:
    assert {(visit.page, text) for visit in visits for text in visit.errors} == set()


def test_axe_finds_nothing(visits: list[Visit]) -> None:
    """WCAG 2.1 A and AA, in light and dark, wide and narrow."""
    assert [(visit.page, visit.width, *visit.violations) for visit in visits if visit.violations] == []


def test_pages_fit_their_window(visits: list[Visit]) -> None:
    assert [(visit.page, visit.width) for visit in visits if visit.too_wide] == []


@pytest.mark.parametrize("width", WIDTHS)
def test_explorers_are_alive(site: Site, browser: Any, width: int) -> None:
    """Arrow keys and the mouse change what each says; its still picture is gone; it is no wider than its column."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    alive = 0
    for name in _pages_with_explorers(site):
        page.goto(f"{site.url}/{name}", wait_until="networkidle")
        for place in page.query_selector_all("[data-explorer]"):
            where = (name, place.get_attribute("data-explorer"))
            assert place.query_selector(".mm-live [role=slider]"), where
            assert not page.evaluate("(place) => place.querySelector(':scope > img')", place), where
            assert not page.evaluate(WIDER, place.query_selector(".mm-live")), where
            _assert_keys_move(page, place, where)
            _assert_mouse_moves(page, place, where)
            alive += 1
    page.close()
    assert alive > 0


def _assert_keys_move(page: Any, place: Any, where: tuple[str, str]) -> None:
    place.query_selector("[role=slider]").focus()
    before = page.evaluate(SAYS, place)
    page.keyboard.press("ArrowRight")
    assert page.evaluate(SAYS, place) != before, (*where, "ArrowRight")


def _assert_mouse_moves(page: Any, place: Any, where: tuple[str, str]) -> None:
    handle = place.query_selector("[role=slider]")
    handle.scroll_into_view_if_needed()
    before = page.evaluate(SAYS, place)
    box = handle.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    for step in range(1, 6):
        page.mouse.move(x + 7 * step, y + 5 * step)
    page.mouse.up()
    assert page.evaluate(SAYS, place) != before, (*where, "mouse")


def test_explorers_follow_a_finger(site: Site, browser: Any) -> None:
    """A touch drags the handle; beside the handle it is the page's, for scrolling."""
    context = browser.new_context(viewport={"width": WIDTHS[1], "height": 900}, has_touch=True)
    page = context.new_page()
    finger = context.new_cdp_session(page)
    for name in _pages_with_explorers(site):
        page.goto(f"{site.url}/{name}", wait_until="networkidle")
        for place in page.query_selector_all("[data-explorer]"):
            where = (name, place.get_attribute("data-explorer"))
            handle = place.query_selector("[role=slider]")
            handle.scroll_into_view_if_needed()
            before, box = page.evaluate(SAYS, place), handle.bounding_box()
            x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
            for kind, steps in (("touchStart", [0]), ("touchMove", range(1, 6)), ("touchEnd", [None])):
                for step in steps:
                    points = [] if step is None else [{"x": x + 7 * step, "y": y + 5 * step}]
                    finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
            assert page.evaluate(SAYS, place) != before, (*where, "finger")
            taken = (
                "(place) => [...place.querySelectorAll('svg')].map((s) => getComputedStyle(s).touchAction)"
            )
            assert "none" not in page.evaluate(taken, place), (*where, "the page cannot be scrolled over it")
    context.close()


def test_explorers_live_on_a_disk(site: Site, browser: Any) -> None:
    """Opened as files, without a server; modules may not be imported from files."""
    page = browser.new_page()
    for name in _pages_with_explorers(site):
        page.goto((site.folder / name).as_uri(), wait_until="load")
        for place in page.query_selector_all("[data-explorer]"):
            page.wait_for_function("(place) => place.querySelector('.mm-live [role=slider]')", arg=place)
    page.close()


def test_mathematics_is_set(site: Site, browser: Any) -> None:
    page = browser.new_page()
    for name in site.pages():
        formulas = _soup(site, name).select(".math")
        if not formulas:
            continue
        page.goto(f"{site.url}/{name}", wait_until="networkidle")
        page.wait_for_selector("mjx-container svg", state="attached")
        assert page.evaluate("document.querySelectorAll('mjx-container svg').length") >= len(formulas), name
        assert page.evaluate("document.querySelectorAll('[data-mjx-error], mjx-merror').length") == 0, name
    page.close()


def test_long_formulas_can_be_scrolled_to_their_beginning(site: Site, browser: Any) -> None:
    """On a narrow page some are wider than their column; none may start left of it."""
    page = browser.new_page(viewport={"width": WIDTHS[1], "height": 900})
    starts = """() => [...document.querySelectorAll("div.math mjx-container svg")].map((formula) => {
      const block = formula.closest("div.math");
      const start = formula.getBoundingClientRect().left - block.getBoundingClientRect().left;
      return [start + block.scrollLeft, block.scrollWidth > block.clientWidth];
    })"""
    long = 0
    for name in site.pages():
        page.goto(f"{site.url}/{name}", wait_until="networkidle")
        for start, scrolls in page.evaluate(starts):
            assert start >= -1, name
            long += scrolls
    page.close()
    assert long > 0


def test_solutions_are_folded(site: Site) -> None:
    from minimaskrcnn_lessons import editions

    for path in editions.sources():
        lesson = editions.read(path)
        solutions = _soup(site, f"{lesson.stem}.html").select("div.tag_solution")
        assert len(solutions) == len(lesson.exercises), lesson.stem
        for solution in solutions:
            folded = solution.select_one("details:not([open])")
            assert "Show a solution" in folded.summary.get_text(), lesson.stem
            assert not solution.select("pre:not(details pre)"), lesson.stem


def test_pictures_have_alternative_text(site: Site) -> None:
    for name in site.pages():
        assert [str(image)[:80] for image in _soup(site, name).select("img:not([alt])")] == [], name


def test_links_lead_on(site: Site) -> None:
    """To pages and places of the book; links to other servers are not asked."""
    places = {name: {tag["id"] for tag in _soup(site, name).select("[id]")} for name in site.pages()}
    broken = []
    for name in places:
        for link in _soup(site, name).select("a[href]"):
            target, fragment = urldefrag(link["href"])
            if target.startswith(("https://", "http://", "mailto:")):
                continue
            page = ((site.folder / name).parent / unquote(target)).resolve() if target else site.folder / name
            known = places.get(page.relative_to(site.folder).as_posix())
            if known is None or (fragment and unquote(fragment) not in known):
                broken.append((name, link["href"]))
    assert broken == []


def _pages_with_explorers(site: Site) -> list[str]:
    return [name for name in site.pages() if _soup(site, name).select("[data-explorer]")]


def _soup(site: Site, name: str) -> Any:
    from bs4 import BeautifulSoup

    return BeautifulSoup((site.folder / name).read_text(encoding="utf-8"), "html.parser")
