"""The page in a real browser: it is clicked through, and the browser has nothing to complain about.

Needs the extra ``browser`` (playwright, of which no browser of its own is used) and a chromium that is installed; skipped
without them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.explained import EXPLAINED, explained

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WIDTHS = (1280, 800)

# Texts that stick out of their boxes in the pictures.
OUTSIDE = """() => [...document.querySelectorAll('g.box')].flatMap(box => {
  const outline = box.querySelector('rect').getBoundingClientRect();
  const isOutside = text => {
    const own = text.getBoundingClientRect();
    return own.left < outline.left || own.right > outline.right || own.bottom > outline.bottom;
  };
  return [...box.querySelectorAll('.title, .caption, .value')].filter(isOutside).map(text => text.textContent);
})"""
# How many pairs of boxes overlap.
OVERLAPS = """() => {
  const areOver = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
  return [...document.querySelectorAll('svg.picture')].flatMap(picture => {
    const boxes = [...picture.querySelectorAll('g.box > rect:first-of-type')].map(box => box.getBoundingClientRect());
    return boxes.flatMap((a, i) => boxes.slice(i + 1).filter(b => a.width && areOver(a, b)));
  }).length;
}"""
# Lowest contrast, as WCAG defines it, of a text with what is behind it, and the text.
CONTRAST = """() => {
  const linear = value => value <= 10 ? value / 3294 : ((value / 255 + 0.055) / 1.055) ** 2.4;
  const numbers = color => color.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const behind = node => {
    const color = node ? numbers(getComputedStyle(node).backgroundColor) : [255, 255, 255];
    return color.length === 3 || color[3] > 0 ? color : behind(node.parentElement);
  };
  const texts = 'p, dt, dd, th, td, li, h1, h2, h3, summary, code, .badge, nav a, .ln span, button';
  let worst = [99, ''];
  for (const node of document.querySelectorAll(texts)) {
    if (!node.textContent.trim() || !node.getClientRects().length) continue;
    const [a, b] = [light(numbers(getComputedStyle(node).color)), light(behind(node))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < worst[0]) worst = [ratio, node.textContent.trim().slice(0, 60)];
  }
  return worst;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install 'tract-fx[browser]'"
    )
    executable = os.environ.get("TRACT_FX_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        pytest.skip(f"no browser is installed: none of {', '.join(BROWSERS)}, and TRACT_FX_BROWSER is not set")
    with api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield running
        running.close()


class Visit:
    """A page that is open, and what the browser said and asked for."""

    def __init__(self, browser: Any, path: Path, **settings: Any) -> None:
        self.context = browser.new_context(viewport={"width": 1280, "height": 900}, **settings)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    def __enter__(self) -> Any:
        return self.page

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.context.close()
        if kind is None:
            assert self.complaints == []
            assert len(self.requests) == 1


def page_of(name: str, folder: Path) -> Path:
    return explained(name).to_html(folder / "page.html")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", EXPLAINED)
def test_it_is_legible(browser: Any, name: str, scheme: str, tmp_path: Path) -> None:
    """Wide and narrow, light and dark: nothing sticks out, nothing overlaps, and text has contrast."""
    with Visit(browser, page_of(name, tmp_path), color_scheme=scheme) as page:
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate(OUTSIDE) == []
            assert page.evaluate(OVERLAPS) == 0
        ratio, text = page.evaluate(CONTRAST)
        assert ratio >= 4.5, text


def test_every_link_leads_somewhere_that_is_seen(browser: Any, tmp_path: Path) -> None:
    with Visit(browser, page_of("breaks", tmp_path)) as page:
        links = page.locator("nav a")
        assert links.count() >= 4
        for index in range(links.count()):
            link = links.nth(index)
            link.click()
            target = page.locator(link.get_attribute("href"))
            assert target.is_visible()
            top = target.bounding_box()["y"]
            header = page.locator("header").bounding_box()["height"]
            at_end = page.evaluate("scrollY + innerHeight >= document.documentElement.scrollHeight - 1")
            assert header - 2 <= top <= 900
            assert at_end or top < 300


def test_code_is_unfolded_at_once_and_part_by_part(browser: Any, tmp_path: Path) -> None:
    with Visit(browser, page_of("primal", tmp_path)) as page:
        first = page.locator(".code .v").first
        assert not first.is_visible()
        summary = page.locator(".code summary").first
        summary.focus()
        page.keyboard.press("Enter")
        assert first.is_visible()
        button = page.get_by_role("button", name="Show all lines")
        button.click()
        assert page.locator(".code details:not([open])").count() == 0
        again = page.get_by_role("button", name="Fold unchanged lines")
        assert again.get_attribute("aria-expanded") == "true"
        again.click()
        assert page.locator(".code details[open]").count() == 0
        assert page.locator(".ln.added").first.is_visible()


def test_long_code_opens_at_the_first_node_of_the_backward_pass_that_changed(browser: Any, tmp_path: Path) -> None:
    with Visit(browser, page_of("stems", tmp_path)) as page:
        code = page.locator(".code").first
        changed = code.locator(".ln.backward.added, .ln.backward.removed").first
        assert code.evaluate("it => it.scrollTop") > 0
        box, line = code.bounding_box(), changed.bounding_box()
        assert box["y"] < line["y"] < box["y"] + 0.5 * box["height"]
        assert "primals_" not in code.inner_text()


def test_layers_are_tabs_for_mouse_and_keyboard(browser: Any, tmp_path: Path) -> None:
    with Visit(browser, page_of("stems", tmp_path)) as page:
        tabs, panels = page.get_by_role("tab"), page.locator("article.layer")
        assert tabs.all_text_contents() == ["image", "table"]
        assert [panels.nth(index).is_visible() for index in range(2)] == [True, False]
        tabs.nth(1).click()
        assert [panels.nth(index).is_visible() for index in range(2)] == [False, True]
        page.keyboard.press("ArrowRight")
        assert tabs.nth(0).get_attribute("aria-selected") == "true"
        assert tabs.nth(0).evaluate("tab => tab === document.activeElement")
        page.keyboard.press("ArrowLeft")
        assert [panels.nth(index).is_visible() for index in range(2)] == [False, True]


def test_the_theme_follows_the_system_and_the_button(browser: Any, tmp_path: Path) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    with Visit(browser, page_of("primal", tmp_path), color_scheme="light") as page:
        light = page.evaluate(ground)
        page.emulate_media(color_scheme="dark")
        dark = page.evaluate(ground)
        assert light != dark
        page.get_by_role("button", name="Use the light theme").click()
        assert page.evaluate(ground) == light
        page.get_by_role("button", name="Use the dark theme").click()
        assert page.evaluate(ground) == dark


def test_everything_is_there_without_scripts(browser: Any, tmp_path: Path) -> None:
    with Visit(browser, page_of("stems", tmp_path), java_script_enabled=False) as page:
        assert all(page.locator("article.layer").nth(index).is_visible() for index in range(2))
        assert not page.get_by_role("button").count()
        page.locator(".code summary").first.click()
        assert page.locator(".code .v").first.is_visible()


def test_in_a_notebook_it_leaves_the_rest_alone(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "notebook.html"
    path.write_text(
        f"<!doctype html><title>n</title><h1>Notebook</h1>{explained('primal')._repr_html_()}", encoding="utf-8"
    )
    with Visit(browser, path) as page:
        frame = page.frame_locator("iframe")
        assert frame.locator("h1").inner_text() == explained("primal").headline
        assert frame.get_by_role("button", name="Show all lines").is_visible()
        assert page.locator("h1").first.evaluate("it => getComputedStyle(it).fontFamily") != frame.locator(
            "h1"
        ).evaluate("it => getComputedStyle(it).fontFamily")
