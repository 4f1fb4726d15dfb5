"""A report in a real browser: without a network, on a desk and on a phone, in the light and in the dark."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sb3_pg.report import write_page
from tests.report.example import FIGURES, NAMES, example_page

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DESK, PHONE = (1280, 900), (390, 844)
PANELS = sum(FIGURES.values())
# Time for a machine that does other things too; what is waited for takes a second.
PATIENCE = 120_000
LINES = "#figure-learning_curves .panel:first-child .mark-line.role-mark path"
LIGHT_BLUE, DARK_BLUE = "rgb(22, 104, 199)", "rgb(76, 147, 255)"

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_page(example_page(), tmp_path_factory.mktemp("report")).as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"needs a browser: one of {', '.join(BROWSERS)}")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_report(browser: Any, report: str) -> Iterator[Open]:
    """Opens the report, and at the end looks whether it said something or asked for something."""
    contexts, said, asked = [], list[str](), list[str]()

    def open_it(size: tuple[int, int] = DESK, before: str = "", waits: bool = True, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": size[0], "height": size[1]}, **options)
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.add_init_script(before)
        page.goto(report)
        if waits and options.get("java_script_enabled", True):
            page.wait_for_function(f"document.querySelectorAll('.picture .vega-embed svg').length === {PANELS}")
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert said == []
    assert {url for url in asked if not url.startswith("data:")} == {report}


def drawn(page: Any) -> dict[str, int]:
    """How many pictures each figure has that something is drawn in."""
    return dict(
        page.evaluate(
            """() => [...document.querySelectorAll("figure[id]")].map((figure) => [
                figure.id.replace("figure-", ""),
                [...figure.querySelectorAll(".picture svg.marks")].filter((svg) =>
                    svg.querySelectorAll(".role-mark path, .role-mark text").length > 0).length])"""
        )
    )


def texts(page: Any, selector: str) -> list[str]:
    found: list[str] = page.locator(selector).all_inner_texts()
    return found


def opacities(page: Any) -> list[str | None]:
    found: list[str | None] = page.locator(LINES).evaluate_all("lines => lines.map(l => l.getAttribute('opacity'))")
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_every_figure_is_there_and_the_page_is_no_wider_than_its_window(
    open_report: Open, size: tuple[int, int], scheme: str
) -> None:
    page = open_report(size, color_scheme=scheme)
    assert drawn(page) == {**FIGURES, "folded": 1}
    assert page.evaluate("document.documentElement.scrollWidth") == size[0]
    widths = page.locator(".panel.fluid svg.marks").evaluate_all(
        "all => all.filter(svg => svg.clientWidth).map(svg => svg.getBoundingClientRect().right)"
    )
    assert max(widths) <= size[0] or size == PHONE  # on a phone the matrix scrolls inside of its box
    color = page.locator(LINES).first.evaluate("line => getComputedStyle(line).stroke")
    assert color == {"light": LIGHT_BLUE, "dark": DARK_BLUE}[scheme]


def test_colours_follow_when_the_reader_changes_the_scheme(open_report: Open) -> None:
    page = open_report(color_scheme="light")
    page.emulate_media(color_scheme="dark")
    assert page.locator(LINES).first.evaluate("line => getComputedStyle(line).stroke") == DARK_BLUE
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 24, 29)"
    page.emulate_media(color_scheme="dark", media="print")
    assert page.locator(LINES).first.evaluate("line => getComputedStyle(line).stroke") == LIGHT_BLUE


def test_a_pointer_is_told_the_values_of_all_series(open_report: Open) -> None:
    page = open_report()
    page.locator("#figure-variance .panel").scroll_into_view_if_needed()
    page.locator("#figure-variance .mark-rect path").nth(2).hover(force=True)
    tooltip = page.locator("#vg-tooltip-element.visible")
    tooltip.wait_for()
    assert texts(page, "#vg-tooltip-element b") == ["episodes: 4"]
    assert texts(page, "#vg-tooltip-element em") == NAMES  # as they are written, <b> and all
    assert tooltip.inner_text().splitlines()[2] == "0.25 [0.2, 0.325]"


def test_a_series_is_switched_off_and_on_in_all_figures(open_report: Open) -> None:
    page = open_report()
    button = page.locator("#figure-learning_curves .legend button").nth(1)
    others = page.locator(f".legend button[data-series='{NAMES[1]}']")
    assert opacities(page)[1] == "1"
    button.click()
    assert others.evaluate_all("all => all.map(b => b.getAttribute('aria-pressed'))") == ["false"] * 4
    page.wait_for_function(f"document.querySelectorAll(`{LINES}`)[1].getAttribute('opacity') === '0'")
    page.locator("#figure-variance .mark-rect path").nth(2).hover(force=True)
    page.locator("#vg-tooltip-element.visible").wait_for()
    assert texts(page, "#vg-tooltip-element em") == [name for name in NAMES if name != NAMES[1]]
    button.focus()
    page.keyboard.press("Enter")
    page.wait_for_function(f"document.querySelectorAll(`{LINES}`)[1].getAttribute('opacity') === '1'")


def test_the_others_are_faint_while_a_series_is_pointed_at(open_report: Open) -> None:
    page = open_report()
    page.locator("#figure-learning_curves .legend button").nth(3).hover()
    page.wait_for_function(f"document.querySelectorAll(`{LINES}`)[0].getAttribute('opacity') === '0.15'")
    assert set(opacities(page)) == {"0.15", "1"}
    page.mouse.move(0, 0)
    page.wait_for_function(f"document.querySelectorAll(`{LINES}`)[0].getAttribute('opacity') === '1'")


def test_pictures_follow_the_width_of_the_window(open_report: Open) -> None:
    page = open_report(DESK)
    svg = page.locator("#figure-profiles svg.marks")
    before = svg.evaluate("svg => svg.viewBox.baseVal.width")
    page.set_viewport_size({"width": PHONE[0], "height": PHONE[1]})
    page.wait_for_function("document.querySelector('#figure-profiles svg.marks').viewBox.baseVal.width < 400")
    assert before > 600
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE[0]


def test_what_is_folded_away_is_drawn_when_it_is_opened_and_printed(open_report: Open) -> None:
    page = open_report()
    assert page.locator("#figure-folded .vega-embed").count() == 0
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.locator("#figure-folded .vega-embed svg").wait_for()
    assert page.locator("#figure-folded svg.marks").evaluate("svg => svg.viewBox.baseVal.width") > 300
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details[open]").count() == 0
    assert page.pdf(format="A4").startswith(b"%PDF")


def test_on_paper_tables_fit_and_pictures_stay_with_their_captions(open_report: Open) -> None:
    """Paper cannot be scrolled; and captions that hold on to what follows would chain all figures to one another."""
    page = open_report((680, 900))
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollWidth") == 680
    tables = "all => all.map(table => table.getBoundingClientRect().right)"
    assert max(page.locator("table").evaluate_all(tables)) <= 680
    breaks = "all => all.map(caption => getComputedStyle(caption).breakAfter)"
    assert set(page.locator("figure:not(.table) figcaption").evaluate_all(breaks)) == {"auto"}


def test_a_row_keeps_its_name_however_far_one_scrolls(open_report: Open) -> None:
    page = open_report(PHONE)
    box = page.locator(".scroll", has_text="mlp_extractor").first
    name = box.locator("tbody th").first
    before = name.bounding_box()["x"]
    box.evaluate("box => box.scrollLeft = 200")
    assert box.evaluate("box => box.scrollLeft") == 200
    assert name.bounding_box()["x"] == before


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_without_javascript_the_pictures_are_those_of_the_file(open_report: Open, scheme: str) -> None:
    page = open_report(java_script_enabled=False, color_scheme=scheme)
    assert page.locator(".vega-embed").count() == 0
    assert page.locator(".picture svg.marks").count() == PANELS + 1
    assert page.locator("#figure-profiles svg.marks").bounding_box()["width"] > 500
    assert page.locator(".legend button:enabled").count() == 0
    stroke = page.locator(LINES).first
    assert stroke.get_attribute("stroke") == "#1668c7"
    assert page.locator("h2").all_inner_texts() == ["Verdict", "Learning curves", "Over all tasks", "Variance", "Audit"]


def test_what_is_in_sight_is_drawn_first(open_report: Open) -> None:
    """The others while nothing else is to be done, and at once when the page is printed; their pictures are there."""
    never = "window.requestIdleCallback = () => 0"
    page = open_report((800, 300), before=never, waits=False)
    page.locator("#figure-learning_curves .panel").first.scroll_into_view_if_needed()
    page.locator("#figure-learning_curves .vega-embed svg").first.wait_for()
    assert page.locator(".panel .vega-embed").count() < PANELS
    assert page.locator(".panel .picture svg").count() >= PANELS
    page.locator("#figure-variance .panel").scroll_into_view_if_needed()
    page.locator("#figure-variance .vega-embed svg").wait_for()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.wait_for_function(f"document.querySelectorAll('.picture .vega-embed svg').length === {PANELS + 1}")
