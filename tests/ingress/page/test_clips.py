"""The page with clips: samples, crops, more seeds, copies, the player, and the gallery."""

import os
import re
import shlex
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from svd_engine.video import decode_video
from tests.ingress.page.visits import (
    PICTURE,
    SMALL,
    expect_playing,
    expect_title,
    fill,
    opened,
    render,
    unfold,
)

pytestmark = pytest.mark.browser


@pytest.fixture
def clip(page: Page) -> Page:
    """The page, on which a clip of seed 3 plays."""
    render(opened(page), seed="3", motion_bucket_id="90")
    expect_playing(page)
    return page


def video_of(page: Page) -> dict[str, Any]:
    """The video on the stage, as the API has it."""
    name = page.url.rpartition("/")[2]
    answer: dict[str, Any] = page.evaluate(f"fetch('v1/videos/{name}').then((r) => r.json())")
    return answer


def bytes_at(page: Page, path: str) -> bytes:
    script = "(path) => fetch(path).then((r) => r.bytes()).then((b) => Array.from(b))"
    return bytes(page.evaluate(script, path))


def picture_of(page: Page) -> bytes:
    return bytes_at(page, f"v1/videos/{video_of(page)['id']}/picture")


def test_samples_play_at_once_and_one_click_renders_one(page: Page) -> None:
    opened(page)
    backdrop = page.locator("#backdrop")
    expect(backdrop).to_have_attribute("src", re.compile(r"sample-cat\.webp$"))
    page.wait_for_function("() => document.getElementById('backdrop').naturalWidth > 0")
    unfold(page)
    for name, value in SMALL.items():
        page.fill(f"#{name}", value)
    page.get_by_role("button", name="Coffee").click()
    expect_playing(page)
    expect(page.locator("#gallery [aria-current]")).to_contain_text("coffee")


def test_samples_stand_still_for_who_wants_less_motion(page: Page) -> None:
    page.emulate_media(reduced_motion="reduce")
    opened(page)
    expect(page.locator("#backdrop")).to_have_attribute("src", re.compile(r"sample-cat\.jpg$"))


def two_halves() -> bytes:
    """A wide picture, red on the left and blue on the right."""
    pixels = np.zeros((60, 240, 3), np.uint8)
    pixels[:, :120, 0] = pixels[:, 120:, 2] = 220
    data = BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


@pytest.mark.parametrize(("by", "channel"), [(400, 0), (-400, 2)])
def test_a_crop_is_dragged_to_what_is_to_be_kept(page: Page, by: int, channel: int) -> None:
    opened(page)
    fill(page, {"name": "wide.png", "mimeType": "image/png", "buffer": two_halves()})
    frame = page.locator("#frame").bounding_box()
    assert frame is not None
    x, y = frame["x"] + frame["width"] / 2, frame["y"] + frame["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + by, y, steps=4)
    page.mouse.up()
    page.get_by_role("button", name="Render", exact=True).click()
    expect_title(page, "Done")
    sent = np.asarray(Image.open(BytesIO(picture_of(page))).convert("RGB"))
    assert sent.shape == (60, 80, 3)  # a whole column of the picture, in the frame's shape
    assert sent[..., channel].min() == 220


def test_a_picture_that_is_not_moved_is_sent_as_it_is(clip: Page) -> None:
    assert picture_of(clip) == PICTURE["buffer"]


def test_four_more_seeds_are_shown_beside_each_other(clip: Page) -> None:
    clip.get_by_role("button", name="Four more seeds").click()
    expect(clip.locator("#takes button")).to_have_count(4, timeout=60_000)
    expect_playing(clip)
    before = clip.locator("#video").get_attribute("src")
    clip.locator("#takes button").nth(2).click()
    expect(clip.locator("#video")).not_to_have_attribute("src", before or "")
    assert video_of(clip)["params"]["motion_bucket_id"] == 90


def test_settings_and_picture_come_back_after_a_reload(clip: Page) -> None:
    clip.reload()
    expect_playing(clip)
    expect(clip.locator("#chosen")).to_be_hidden()
    clip.get_by_role("button", name="Use these settings").click()
    expect(clip.locator("#stage")).to_have_attribute("data-mode", "picture")
    for name, value in {**SMALL, "seed": "3", "motion_bucket_id": "90", "fit": "crop"}.items():
        expect(clip.locator(f"#{name}")).to_have_value(value)
    first = clip.locator("#gallery a").first.get_attribute("href")
    clip.get_by_role("button", name="Render", exact=True).click()
    expect_playing(clip)
    again = video_of(clip)
    assert (again["attempts"], again["gpu_seconds"]) == (0, 0)  # it is the same clip
    assert first is not None


def copied(page: Page, way: str) -> str:
    page.locator("#copy summary").click()
    page.get_by_role("button", name=way).click()
    expect(page.locator("#said")).to_have_text("Copied.")
    text: str = page.evaluate("navigator.clipboard.readText()")
    return text


def ended(url: str, job: str) -> dict[str, Any]:
    with httpx2.Client(base_url=url, timeout=60) as http:
        while True:
            video: dict[str, Any] = http.get(f"/v1/videos/{job}").json()
            if video["state"] not in ("queued", "running"):
                return video


def test_what_is_copied_runs_and_asks_for_the_same(clip: Page, url: str, tmp_path: Path) -> None:
    """As a person would paste it, in a folder that has the picture."""
    name = video_of(clip)["name"]
    Path(tmp_path, name).write_bytes(PICTURE["buffer"])
    mine = video_of(clip)
    curl = shlex.split(copied(clip, "curl").replace("\\\n", " "))
    done = subprocess.run([*curl, "-sS"], cwd=tmp_path, capture_output=True, check=True)
    video = ended(url, re.search(rb'"id": ?"([^"]+)"', done.stdout)[1].decode())  # type: ignore[index]
    assert (video["params"], video["gpu_seconds"]) == (mine["params"], 0)
    program = copied(clip, "Python")
    subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
        capture_output=True,
    )
    saved = decode_video(Path(tmp_path, "clip.mp4").read_bytes())
    assert saved.shape == (5, 48, 64, 3)
    words = shlex.split(copied(clip, "Batch"))
    assert words[:4] == ["python", "-m", "farm.batch", name]
    assert words[words.index("--seeds") + 1] == "3"
    assert words[words.index("--motion-bucket-id") + 1] == "90"


def test_a_clip_is_scrubbed_compared_and_saved(clip: Page) -> None:
    clip.locator("#scrub").fill("3")
    expect(clip.locator("#at")).to_have_text("4 of 5")
    assert clip.evaluate("document.getElementById('video').paused")
    clip.get_by_role("button", name="Compare").click()
    clip.wait_for_function("() => document.getElementById('original').naturalWidth === 64")
    sizes = {}
    for label, form in (("GIF", "GIF"), ("WebP", "WEBP"), ("PNG", "PNG")):
        with clip.expect_download() as download:
            clip.get_by_text("Download").click()
            clip.get_by_role("link", name=label).click()
        assert download.value.suggested_filename.endswith(f".{label.lower()}")
        with Image.open(download.value.path()) as image:
            assert image.format == form
            sizes[label] = (*image.size, getattr(image, "n_frames", 1))
    assert sizes == {"GIF": (64, 48, 5), "WebP": (64, 48, 5), "PNG": (64, 48, 1)}


def test_the_gallery_finds_filters_and_deletes_several(page: Page) -> None:
    opened(page)
    for name in ("harbour.png", "market.png"):
        render(page, {**PICTURE, "name": name}, seed=str(len(name)))
        expect_playing(page)
    cards = page.locator("#gallery li")
    page.fill("#search", "HARB")
    expect(cards).to_have_count(1)
    page.fill("#search", "")
    page.select_option("#filter", "failed")
    expect(cards).to_have_count(0)
    expect(page.locator("#no-clips")).to_have_text("No matching clips.")
    page.select_option("#filter", "all")
    before = cards.count()
    page.get_by_role("button", name="Select", exact=True).click()
    for name in ("harbour", "market"):
        page.get_by_label(f"Select {name}").check()
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete 2").click()
    expect(cards).to_have_count(before - 2)
    expect(page.locator("#stage")).to_have_attribute("data-mode", "picture")


def test_a_tile_plays_while_it_is_pointed_at(clip: Page) -> None:
    tile = clip.locator("#gallery a").first
    tile.hover()
    expect(tile.locator("video")).to_be_visible()
    clip.mouse.move(0, 0)
    expect(tile.locator("video")).to_have_count(0)


def test_a_cancelled_clip_is_tried_again(page: Page) -> None:
    render(opened(page), num_inference_steps="400")
    expect_title(page, "Rendering")
    expect(page).to_have_title(re.compile(r"^Rendering \d+%"))
    page.get_by_role("button", name="Cancel").click()
    expect_title(page, "Cancelled")
    first = page.url
    page.get_by_role("button", name="Retry").click()
    page.wait_for_url(lambda now: now != first)
    expect_title(page, "Rendering")
    page.get_by_role("button", name="Cancel").click()
    expect_title(page, "Cancelled")
