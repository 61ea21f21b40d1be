"""The page in a browser: a run that is watched, past results without scripts, keyboard, telephone,
dark, and colours that can be told apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from mnagent.rig.library import PHASES, Step
from mnagent.rig.recorder import Recorder
from tests.support.browser import Browser, find_browser
from tests.support.page import Serve, served
from tests.support.results import HANDOVER, RUN, add_run, tell_story

pytestmark = pytest.mark.browser

TELEPHONE = (360, 740)
DESK = (1200, 900)
LEAST_CONTRAST = 4.5
"""Of text, as WCAG 2 has it for level AA."""
CONTRASTS = """
(() => {
  const channel = (value) => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const luminance = ([red, green, blue]) =>
    0.2126 * channel(red / 255) + 0.7152 * channel(green / 255) + 0.0722 * channel(blue / 255);
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const background = (node) => {
    for (; node; node = node.parentElement) {
      const colour = numbers(getComputedStyle(node).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((each) => each.nodeType === 3 && each.data.trim());
    if (!own || node.closest("title") || !node.getClientRects().length) continue;
    const style = getComputedStyle(node);
    const colour = node instanceof SVGElement ? style.fill : style.color;
    const pair = [luminance(numbers(colour)), luminance(background(node))].sort((a, b) => b - a);
    found.push([node.textContent.trim().slice(0, 40), (pair[0] + 0.05) / (pair[1] + 0.05)]);
  }
  return found;
})()
"""
OVERLAPS = """
[...document.querySelectorAll("svg")].flatMap((picture) => {
  const boxes = [...picture.querySelectorAll("text")]
    .map((text) => [text.textContent, text.getBoundingClientRect()]);
  return boxes.flatMap(([name, box], index) => boxes.slice(index + 1)
    .filter(([, other]) => box.left < other.right - 1 && other.left < box.right - 1
      && box.top < other.bottom - 4 && other.top < box.bottom - 4)
    .map(([other]) => `${name} and ${other}`));
})
"""
NAMELESS = """
[...document.querySelectorAll("a, button, select, input, img, svg, [role=region], nav")]
  .filter((node) => !(node.textContent.trim() && node.matches("a, button"))
    && !node.getAttribute("aria-label") && !node.alt && !(node.labels && node.labels.length))
  .map((node) => node.outerHTML.slice(0, 80))
"""


@pytest.fixture(scope="module")
def program() -> str:
    found = find_browser()
    if found is None:
        pytest.skip("needs Chromium")
    return found


@pytest.fixture
def browser(program: str) -> Iterator[Browser]:
    """A fresh one; whatever it complained of fails the test."""
    with Browser(program) as made:
        made.resize(*DESK)
        yield made
        assert made.complaints() == []


@pytest.fixture
def address(serve: Serve) -> str:
    return serve()


def focused(browser: Browser) -> Any:
    return browser.evaluate("document.activeElement.textContent.trim()")


def test_running_scenario_is_shown_as_it_goes(
    browser: Browser, address: str, results: Path
) -> None:
    browser.open(address)
    browser.shows("Nothing is running")
    with Recorder(results, RUN) as recorder:
        browser.shows("demo on namespaces")
        recorder.tell(Step(at=98.0, text="Building a <home> link"))
        browser.shows("Building a <home> link")
        assert browser.evaluate("document.querySelectorAll('svg circle').length") == 0
        tell_story(recorder)
        browser.shows("1. home → link-a")
        told = browser.evaluate("document.querySelector('[data-status]').textContent")
        assert told == "Moving from home to link-a"
        assert browser.evaluate("document.querySelectorAll('svg .silent').length") == 1
        marks = "[...document.querySelectorAll('svg circle title')].map((each) => each.textContent)"
        assert "BA: 49 ms" in browser.evaluate(marks)
        later = replace(HANDOVER, phases={**HANDOVER.phases, "first_packet_in": 51.0})
        recorder.tell(later)
        browser.until(lambda: "in: 51 ms" in browser.evaluate(marks))
        recorder.finish(succeeded=True, handovers=[later])
    browser.shows("Nothing is running")
    browser.shows("passed")


def test_page_says_when_the_server_is_gone(program: str, results: Path, serve: Serve) -> None:
    with Browser(program) as browser:
        with served(results) as address:
            browser.open(address)
            browser.shows("Nothing is running")
        browser.shows("The server does not answer; trying again.")


def test_past_results_need_no_script(browser: Browser, address: str, results: Path) -> None:
    name = add_run(results, held=False)
    browser.allow_scripts(False)
    browser.open(f"{address}/runs")
    browser.open(f"{address}/runs/{name}")
    text = browser.call("DOM.getDocument", depth=-1)
    shown = str(text)
    for expected in ("nothing was <lost>", "did not hold", "home → link-a", "49.0", "BA 49 ms"):
        assert expected in shown, expected


def test_page_asks_for_nothing_from_elsewhere(
    browser: Browser, address: str, results: Path
) -> None:
    name = add_run(results)
    for path in ("/", "/runs", "/compare", "/places", f"/runs/{name}"):
        browser.open(address + path)
    hosts = {urlsplit(each).netloc for each in browser.asked_for()}
    assert hosts == {urlsplit(address).netloc}


def test_report_cannot_run_scripts(program: str, address: str, results: Path) -> None:
    name = add_run(results)
    (results / name / "report.html").write_text(
        "<title>as written</title><p>report<script>document.title = 'ran'</script>"
        '<script src="/static/rig.js"></script><img src="/" onerror="document.title = \'ran\'">'
    )
    with Browser(program) as browser:
        browser.open(f"{address}/runs/{name}/files/report.html")
        browser.shows("report")
        assert browser.evaluate("document.title") == "as written"
        assert any("sandboxed" in each for each in browser.complaints())


def test_login_by_keyboard_lets_in_and_out(browser: Browser, serve: Serve, tmp_path: Path) -> None:
    browser.open(serve("--token-file", str(tmp_path / "token")))
    browser.shows("Token, from the file")
    assert browser.evaluate("document.activeElement.id") == "token"
    token = (tmp_path / "token").read_text().strip()
    browser.call("Input.insertText", text=token)
    browser.press("Enter")
    browser.shows("Nothing is running")
    assert browser.evaluate("document.cookie") == ""
    assert token not in str(browser.asked_for())
    browser.evaluate("document.querySelector('.leave button').focus()")
    browser.press("Enter")
    browser.shows("Token, from the file")


def test_keyboard_reaches_everything_in_order(
    browser: Browser, address: str, results: Path
) -> None:
    add_run(results)
    browser.open(f"{address}/compare")
    browser.press("Tab")
    assert focused(browser) == "Skip to content"
    visible = "document.activeElement.getBoundingClientRect().left >= 0"
    assert browser.evaluate(visible)
    browser.press("Enter")
    assert browser.evaluate("document.activeElement.id") == "content"
    browser.open(f"{address}/compare")
    seen = []
    for _ in range(9):
        browser.press("Tab")
        seen.append(
            browser.evaluate(
                "document.activeElement.name || document.activeElement"
                ".getAttribute('aria-label') || document.activeElement"
                ".textContent"
            )
        )
        outline = "getComputedStyle(document.activeElement).outlineStyle"
        assert browser.evaluate(outline) == "solid", seen
    assert seen[1:8] == ["Now", "Runs", "Comparison", "Places", "series", "handovers", "Compare"]
    assert seen[8].startswith("Median / 95th percentile")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_can_be_told_apart(
    browser: Browser, address: str, results: Path, scheme: str
) -> None:
    name = add_run(results, held=False)
    browser.prefer(scheme)
    backgrounds = set()
    with Recorder(results, RUN) as recorder:
        tell_story(recorder)
        for path in ("/", "/runs", "/compare", f"/runs/{name}"):
            browser.open(address + path)
            contrasts = browser.evaluate(CONTRASTS)
            assert len(contrasts) > 10
            assert [each for each in contrasts if each[1] < LEAST_CONTRAST] == []
            colour = "getComputedStyle(document.documentElement).backgroundColor"
            backgrounds.add(browser.evaluate(colour))
    assert backgrounds == {"rgb(255, 255, 255)" if scheme == "light" else "rgb(18, 24, 27)"}


@pytest.mark.parametrize("size", [TELEPHONE, DESK], ids=["telephone", "desk"])
def test_page_is_as_wide_as_the_screen_and_everything_has_a_name(
    browser: Browser, address: str, results: Path, size: tuple[int, int]
) -> None:
    crowd = dict(zip(PHASES, (0, 5, 5, 6, 40, 41, 43, 60, 110), strict=True))
    moves = [
        replace(HANDOVER, number=number, at=99.0 + number / 5, phases=crowd)
        for number in range(1, 11)
    ]
    name = add_run(results, handovers=tuple(moves))
    browser.resize(*size)
    with Recorder(results, RUN) as recorder:
        tell_story(recorder)
        for path in ("/", "/runs", "/compare", "/places", f"/runs/{name}"):
            browser.open(address + path)
            width = browser.evaluate("document.documentElement.scrollWidth")
            assert width <= size[0], path
            assert browser.evaluate(NAMELESS) == []
            assert browser.evaluate(OVERLAPS) == []
            landmarks = "['header', 'nav', 'main', 'h1'].map((each) => "
            landmarks += "document.querySelectorAll('body ' + each).length)"
            assert browser.evaluate(landmarks) == [1, 1, 1, 1]
            smallest = (
                "Math.min(...[...document.querySelectorAll('body *')]"
                ".map((each) => parseFloat(getComputedStyle(each).fontSize)))"
            )
            assert browser.evaluate(smallest) >= 11
