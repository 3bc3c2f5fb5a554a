"""The contact sheet in a real browser: what plays, what the filter shows, how it fits."""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from playwright.sync_api import Browser, Page

from farm.batch.contact_sheet import contact_sheet
from farm.batch.small_pictures import SIDE, small_jpeg
from farm.batch.summary import Row
from svd_engine.picture_files import open_picture
from svd_engine.video import save
from tests.batch.test_batch_outputs import row
from tests.conftest import draw_picture
from tests.support.chromium import chromium

pytestmark = pytest.mark.browser
PLAYING = "[...document.querySelectorAll('video')].map((clip) => !clip.paused)"
IN_VIEW = """[...document.querySelectorAll('video')].map((clip) => {
  const { top, bottom, height } = clip.getBoundingClientRect();
  return (Math.min(bottom, innerHeight) - Math.max(top, 0)) / height >= 0.2;
})"""
SHOWN = "[...document.querySelectorAll('figure.{}')].filter((f) => f.checkVisibility()).length"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def sheet(folder: Path, rows: list[Row]) -> str:
    """Write the page of rows with its clips and pictures; its URL."""
    frames = np.zeros((8, 48, 64, 3), np.uint8)
    for each in rows:
        save(frames, 8, folder / each.video)
        draw_picture(64, 48).save(folder / each.thumbnail)
        draw_picture(300, 100).save(folder / each.source)
    command = f"farm-batch pictures --out clips --deviations {'x' * 200}"
    (folder / "index.html").write_text(contact_sheet(rows, command, 0.0))
    return (folder / "index.html").as_uri()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two clips of each of six pictures, two of which failed."""
    rows = [row(f"p{n}", seed) for n in range(6) for seed in (0, 1)]
    for n in (1, 2):
        rows[n] = row(rows[n].name, rows[n].seed, status="failed", error="broken " + "x" * 300)
    rows.append(row("p6", 0, status="failed", error="gone"))
    return sheet(tmp_path_factory.mktemp("pictures"), rows)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> str:
    rows = [row("cat", seed, motion_bucket_id=m) for seed in range(7) for m in (40, 127)]
    return sheet(tmp_path_factory.mktemp("sweep"), rows)


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["pictures", "sweep"])
def test_it_fits_its_window_and_is_readable(
    browser: Browser,
    kind: str,
    scheme: Literal["light", "dark"],
    width: int,
    request: pytest.FixtureRequest,
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    console = list[str]()
    page.on("console", lambda message: console.append(message.text))
    page.goto(request.getfixturevalue(kind))
    assert page.evaluate("document.documentElement.scrollWidth") == width
    ink, paper = (
        page.evaluate(f"getComputedStyle(document.body).{name}")
        for name in ("color", "backgroundColor")
    )
    assert (_light(ink) < _light(paper)) == (scheme == "light")
    assert abs(_light(ink) - _light(paper)) > 180
    page.close()
    assert console == []


def _light(colour: str) -> float:
    red, green, blue = (int(part) for part in colour.strip("rgb()").split(",")[:3])
    return (red + green + blue) / 3


def _settled(page: Page, script: str) -> None:
    page.wait_for_function(script, timeout=20_000)


def test_only_what_is_in_view_plays(browser: Browser, pictures: str) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 500})
    page.goto(pictures)
    same = f"JSON.stringify({PLAYING}) === JSON.stringify({IN_VIEW})"
    for position in (0, 700, 5000, 300):
        page.evaluate(f"window.scrollTo(0, {position})")
        _settled(page, same)
    assert True in page.evaluate(PLAYING)
    assert False in page.evaluate(PLAYING)
    page.get_by_role("button", name="Pause all").click()
    _settled(page, f"!{PLAYING}.includes(true)")
    page.get_by_role("button", name="Play all").click()
    _settled(page, same)
    page.close()


def test_nothing_moves_for_who_prefers_less_motion_until_asked(
    browser: Browser, pictures: str
) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
    page.goto(pictures)
    page.wait_for_timeout(500)
    assert True not in page.evaluate(PLAYING)
    clip = page.locator("video").first
    clip.focus()
    assert clip.evaluate("clip => clip.controls")
    page.keyboard.press("Space")
    _settled(page, f"{PLAYING}[0]")
    assert page.evaluate(PLAYING).count(True) == 1
    page.close()


def test_the_filter_by_keyboard(browser: Browser, pictures: str) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.goto(pictures)
    page.keyboard.press("Tab")  # the button that copies the command
    page.keyboard.press("Tab")
    counts = {"All": (10, 3), "Done": (10, 0), "Failed": (0, 3)}
    for name, (done, failed) in counts.items():
        assert page.evaluate("document.activeElement.labels[0].innerText").startswith(name)
        assert page.evaluate(SHOWN.format("done")) == done
        assert page.evaluate(SHOWN.format("failed")) == failed
        page.keyboard.press("ArrowRight")
    page.get_by_text("Failed 3").click()
    assert page.locator("section:visible h2").all_inner_texts() == [
        f"p{n} pictures/cat.png" for n in (0, 1, 6)
    ]
    page.close()


def test_the_picture_is_beside_its_clip_and_may_be_missing(browser: Browser, pictures: str) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.goto(pictures)
    first = page.locator("section").first
    source, clip = (first.locator(kind).bounding_box() for kind in ("img", "video >> nth=0"))
    assert source is not None
    assert clip is not None
    assert source["y"] == clip["y"]
    assert source["x"] < clip["x"]
    assert source["height"] == pytest.approx(clip["height"], abs=1)
    (Path(pictures.removeprefix("file://")).parent / "p0.source.jpg").unlink()
    page.reload()
    _settled(page, "!document.querySelector('section').querySelector('.source')")
    page.close()


def test_small_pictures() -> None:
    wide = draw_picture(2000, 500)
    file = BytesIO()
    wide.save(file, "PNG")
    assert open_picture(small_jpeg(file.getvalue())).size == (SIDE, SIDE // 4)
