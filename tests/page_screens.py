"""`python -m tests.page_screens`: pictures of the page at eight moments, and what it weighs.

They are drawn into `examples/page/`, and the page's README shows them. It takes three
minutes on two cores, because `nano` renders the clips.
"""

import tempfile
import time
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, Response, ViewportSize, expect

from tests.support.chromium import chromium
from tests.support.inline_door import inline_serving

OUT = Path(__file__).parents[1] / "examples/page"
PICTURE = "tests/pictures/temple.jpg"
LAPTOP: ViewportSize = {"width": 1280, "height": 800}
PHONE: ViewportSize = {"width": 390, "height": 844}
RENDER_MS = 300_000
QUALITY = 80  # of WebP
FORESEEN = "() => !document.getElementById('tag').hidden"  # a preview is shown


def main() -> None:
    """Visit the page, and draw it."""
    OUT.mkdir(exist_ok=True)
    expect.set_options(timeout=RENDER_MS)
    with (
        tempfile.TemporaryDirectory() as folder,
        inline_serving(Path(folder), models=("nano", "tiny")) as url,
        chromium() as browser,
    ):
        page = browser.new_page(viewport=LAPTOP, base_url=url)
        page.set_default_timeout(RENDER_MS)
        weigh(page)
        draw(page, "1-empty")
        on_a_laptop(page)
        on_a_phone(page)


def weigh(page: Page) -> None:
    """Open the page, and print its bytes and the time until a sample plays."""
    sizes: dict[str, int] = {}

    def note(response: Response) -> None:
        if response.ok:
            sizes[response.url] = len(response.body())

    page.on("response", note)
    began = time.perf_counter()
    page.goto("/")
    page.wait_for_function("() => document.getElementById('backdrop').naturalWidth > 0")
    print(f"a sample plays after {time.perf_counter() - began:.2f} s")
    page.wait_for_load_state("networkidle")
    samples = sum(size for url, size in sizes.items() if "/page/sample-" in url)
    files = sum(size for url, size in sizes.items() if "/v1/" not in url)
    print(f"{files - samples:,} bytes of page, {samples:,} of samples, {len(sizes)} requests")


def on_a_laptop(page: Page) -> None:
    """A picture, its preview, the clip beside the picture, more seeds, and two kinds of trouble."""
    page.set_input_files("#input_reference", PICTURE)
    page.locator("#settings summary").click()
    page.fill("#num_inference_steps", "12")
    draw(page, "2-picture")
    page.locator("#settings summary").click()
    page.click("#render")
    page.wait_for_function(FORESEEN)
    draw(page, "3-preview")
    expect(page.locator("#stage-title")).to_have_text("Done")
    page.click("#compare")
    draw(page, "4-done")
    page.click("#four")
    page.wait_for_function(FORESEEN)
    page.route("**/v1/videos/job-*", lambda route: route.abort())
    expect(page.locator("#line")).to_have_text("reconnecting…")
    draw(page, "5-reconnecting")
    page.unroute("**/v1/videos/job-*")
    expect(page.locator("#takes button").first).to_be_visible()
    page.wait_for_load_state("networkidle")
    draw(page, "6-four-seeds", whole=True)
    page.click("#again")
    page.click("#cancel")
    expect(page.locator("#stage-title")).to_have_text("Cancelled")
    draw(page, "7-cancelled")


def on_a_phone(page: Page) -> None:
    """The page as it opens, in the dark."""
    page.set_viewport_size(PHONE)
    page.emulate_media(color_scheme="dark")
    page.goto("/")
    page.wait_for_function("() => document.getElementById('backdrop').naturalWidth > 0")
    draw(page, "8-phone")


def draw(page: Page, name: str, whole: bool = False) -> None:
    """Draw the page as it is now."""
    page.wait_for_timeout(700)  # for images that have just got their address
    with Image.open(BytesIO(page.screenshot(full_page=whole))) as shot:
        shot.save(OUT / f"{name}.webp", quality=QUALITY)
    print(name)


if __name__ == "__main__":
    main()
