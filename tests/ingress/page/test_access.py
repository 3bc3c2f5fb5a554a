"""The page for everyone: names, contrast, sizes for fingers, and the width of a phone."""

from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.ingress.page.visits import expect_playing, opened, render, unfold

pytestmark = pytest.mark.browser

CONTROLS = "button, a[href], input, select, summary"
VISIBLE = f"""
  [...document.querySelectorAll('{CONTROLS}')].filter((e) =>
    e.checkVisibility({{ visibilityProperty: true }}) && !e.closest('.unseen') &&
    e.getAttribute('aria-hidden') !== 'true')
"""
# The contrast of every visible text with the nearest opaque background, where no picture is behind.
CONTRASTS = """() => {
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const colour = parts(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const e = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !e.checkVisibility({ opacityProperty: true })) continue;
    if (e.closest('.unseen, .frame, .pill, noscript, script, [disabled]')) continue;
    const [a, b] = [light(parts(getComputedStyle(e).color)), light(behind(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) found.push(`${texts.currentNode.data.trim()}: ${ratio.toFixed(2)}`);
  }
  return found;
}"""


@pytest.fixture(params=["light", "dark"])
def scheme(request: pytest.FixtureRequest, page: Page) -> Any:
    page.emulate_media(color_scheme=request.param)
    return request.param


def moments(page: Page) -> Any:
    """The page without a picture, with one, with its settings unfolded, and with a clip."""
    yield "empty", opened(page)
    page.set_input_files("#input_reference", "tests/pictures/flower.jpg")
    expect(page.locator("#chosen")).to_be_visible()
    yield "picture", page
    unfold(page)
    yield "settings", page
    render(page, seed="5")
    expect_playing(page)
    yield "done", page


def test_text_has_contrast_and_controls_have_names(page: Page, scheme: str) -> None:
    for moment, now in moments(page):
        assert now.evaluate(CONTRASTS) == [], moment
        unnamed = "(e) => !e.ariaLabel && !e.innerText?.trim() && !e.labels?.length"
        script = f"() => {VISIBLE}.filter({unnamed}).map((e) => e.outerHTML)"
        nameless = now.evaluate(script)
        assert nameless == [], moment


def test_on_a_phone_nothing_overflows_and_fingers_find_everything(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    for moment, now in moments(page):
        assert now.evaluate("document.documentElement.scrollWidth") == 390, moment
        small = now.evaluate(
            f"() => {VISIBLE}.filter((e) => e.type !== 'checkbox' && e.type !== 'radio')"
            ".map((e) => [e.outerHTML.slice(0, 90), e.getBoundingClientRect()])"
            ".filter(([, box]) => box.height < 24 || box.width < 24).map(([html]) => html)"
        )
        assert small == [], moment


def test_the_focus_goes_down_the_page(page: Page) -> None:
    """In the order in which things are seen: columns from left to right, each from its top."""
    opened(page)
    seen: list[tuple[str, float]] = []
    for _ in range(12):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("[document.activeElement.id, scrollY]"))
    names = [name for name, _ in seen]
    assert names.index("input_reference") < names.index("model") < names.index("render")
