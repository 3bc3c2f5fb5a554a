"""What tests of the page do on it, as a visitor would."""

from typing import Any

from playwright.sync_api import Page, expect

from tests.support.farm_jobs import picture_bytes

SMALL = {"width": "64", "height": "48", "num_frames": "5", "num_inference_steps": "5"}
PICTURE: Any = {"name": "a.png", "mimeType": "image/png", "buffer": picture_bytes()}
RENDER_MS = 60_000
PLAYING = "const v = document.getElementById('video'); return v.readyState >= 2 && v.videoWidth"


def opened(page: Page) -> Page:
    page.goto("/")
    expect(page.locator("#main")).to_be_visible()
    expect(page.locator("#num_frames")).to_have_value("8")  # the model's own default is there
    return page


def unfold(page: Page) -> None:
    page.evaluate("document.getElementById('settings').open = true")


def fill(page: Page, picture: Any = PICTURE, **fields: str) -> None:
    page.set_input_files("#input_reference", picture)
    expect(page.locator("#chosen")).to_be_visible()
    unfold(page)
    for name, value in {**SMALL, **fields}.items():
        page.fill(f"#{name}", value)


def render(page: Page, picture: Any = PICTURE, **fields: str) -> None:
    fill(page, picture, **fields)
    page.get_by_role("button", name="Render", exact=True).click()


def expect_title(page: Page, title: str) -> None:
    expect(page.locator("#stage-title")).to_have_text(title, timeout=RENDER_MS)


def expect_playing(page: Page) -> None:
    expect_title(page, "Done")
    expect(page.locator("#video")).to_be_visible()
    page.wait_for_function(f"() => {{ {PLAYING} }}")
