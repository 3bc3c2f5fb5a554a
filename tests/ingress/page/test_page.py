"""The web page at `/`: a job from its picture to its end, keys, the keyboard, and the phone."""

import re
from pathlib import Path
from typing import Any

import httpx2
import pytest
from playwright.sync_api import Page, Request, Route, expect

from tests.ingress.page.visits import (
    PICTURE,
    RENDER_MS,
    SMALL,
    expect_playing,
    expect_title,
    opened,
    render,
    unfold,
)

pytestmark = pytest.mark.browser
NO_PICTURE: Any = {"name": "b.png", "mimeType": "image/png", "buffer": b"no picture at all"}


def test_from_a_picture_to_a_video_that_plays(page: Page) -> None:
    render(opened(page), seed="7")
    expect_playing(page)
    page.wait_for_function("() => document.getElementById('video').currentTime > 0")
    assert page.evaluate("document.getElementById('video').videoWidth") == 64
    expect(page.locator("#facts")).to_contain_text("5 frames · 7 fps · motion 127 · seed 7")
    expect(page.locator("#stage")).to_be_in_viewport(ratio=0.99)
    expect(page.locator("#gallery [aria-current] img")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_text("Download").click()
        page.get_by_role("link", name="Video (MP4)").click()
    assert download.value.suggested_filename.endswith(".mp4")
    assert b"ftyp" in Path(download.value.path()).read_bytes()[:16]


def test_another_seed_then_back_to_the_first_then_neither(page: Page) -> None:
    render(opened(page), seed="8")
    expect_playing(page)
    first = page.url
    page.get_by_role("button", name="Another seed").click()
    page.wait_for_url(lambda now: now != first)
    expect_playing(page)
    expect(page.locator("#facts")).not_to_contain_text(re.compile(r"seed 8\b"))
    page.go_back()
    expect(page.locator("#facts")).to_contain_text(re.compile(r"seed 8\b"))
    cards = page.locator("#gallery li")
    before = cards.count()
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete").click()
    expect(cards).to_have_count(before - 1)
    expect(page.locator("#stage")).to_have_attribute("data-mode", "picture")


def test_a_bad_file_is_said_beside_the_picture(page: Page, faults: list[str]) -> None:
    render(opened(page), picture=NO_PICTURE)
    message = page.locator("#input_reference-error")
    expect(message).to_contain_text("not a picture")
    assert page.locator("#input_reference").get_attribute("aria-invalid") == "true"
    assert ["400" in fault for fault in faults] == [True]  # the console tells of every 4xx
    faults.clear()
    page.set_input_files("#input_reference", PICTURE)
    expect(message).to_be_empty()


def test_what_is_wrong_is_said_before_anything_is_sent(page: Page) -> None:
    opened(page).get_by_role("button", name="Render", exact=True).click()
    expect(page.locator("#input_reference-error")).to_have_text("Choose a picture first.")
    render(page, width="61", seed="many")
    expect(page.locator("#width-error")).to_have_text("Enter a multiple of 8.")
    expect(page.locator("#seed-error")).to_have_text("Enter a whole number, 0 or more.")
    expect(page.locator("#width")).to_be_focused()


def test_a_long_job_is_paused_resumed_and_cancelled(page: Page) -> None:
    render(opened(page), num_inference_steps="400")
    expect_title(page, "Rendering")
    expect(page.locator("#line")).to_contain_text("of 400")
    foreseen = re.compile("^data:image/webp")
    expect(page.locator("#backdrop")).to_have_attribute("src", foreseen, timeout=RENDER_MS)
    page.get_by_role("button", name="Pause").click()
    expect_title(page, "Paused")
    page.get_by_role("button", name="Resume").click()
    page.get_by_role("button", name="Cancel").click()
    expect_title(page, "Cancelled")
    expect(page.locator("#said")).to_contain_text("Cancelled")
    expect(page.locator("#gallery [aria-current]")).to_contain_text("Cancelled")


def test_clicks_on_a_clip_are_sent_in_turn(page: Page) -> None:
    urls: list[str] = []  # of requests and of their answers, as they come
    resume = page.get_by_role("button", name="Resume")

    def late(route: Route) -> None:
        expect(resume).to_be_focused()
        page.get_by_role("button", name="Cancel").click()
        route.continue_()

    page.route("**/resume", late)
    render(opened(page), num_inference_steps="400")
    page.get_by_role("button", name="Pause").click()
    expect_title(page, "Paused")
    page.on("request", lambda request: urls.append(request.url))
    page.on("response", lambda response: urls.append(response.url))
    resume.press("Enter")
    expect_title(page, "Cancelled")
    actions = [url.rpartition("/")[2] for url in urls if url.endswith(("/resume", "/cancel"))]
    assert actions[:3] == ["resume", "resume", "cancel"]


def test_a_look_that_began_before_a_click_was_answered_is_not_shown(page: Page) -> None:
    looks = re.compile(r"/v1/videos/[\w.-]+$")
    title = page.locator("#stage-title")
    titles: list[str] = []  # at each look

    def look(route: Route) -> None:
        titles.append(title.inner_text())
        answer = route.fetch()
        if len(titles) == 1:
            page.get_by_role("button", name="Pause").click()
            expect(title).to_have_text(re.compile("Paus(ing|ed)"))
        route.fulfill(response=answer)

    render(opened(page), num_inference_steps="400")
    expect_title(page, "Rendering")
    with page.expect_event("requestfinished", lambda _: len(titles) > 1):
        page.route(looks, look)
    page.unroute(looks)
    assert titles[0] == "Rendering"
    assert titles[1] in ("Pausing", "Paused")
    page.get_by_role("button", name="Cancel").click()
    expect_title(page, "Cancelled")


def test_by_the_keyboard_alone(page: Page) -> None:
    page.on("filechooser", lambda _: None)  # known to Chromium by the time the key is pressed
    opened(page)

    def tab_to(name: str) -> None:
        for _ in range(40):
            if page.evaluate("document.activeElement.id") == name:
                return
            page.keyboard.press("Tab")
        pytest.fail(f"Tab does not lead to {name}")

    tab_to("input_reference")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Space")
    chooser.value.set_files(PICTURE)
    expect(page.locator("#chosen")).to_be_visible()
    while page.evaluate("document.activeElement.name") != "preset":
        page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")  # from Balanced to Strong
    expect(page.locator("#motion_bucket_id")).to_have_value("216")
    while page.evaluate("document.activeElement.tagName") != "SUMMARY":
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    for name in ("num_frames", "width", "height", "num_inference_steps"):
        tab_to(name)
        page.keyboard.press("Control+A")
        page.keyboard.type(SMALL[name])
    tab_to("render")
    page.keyboard.press("Enter")
    expect_playing(page)


def test_presets_fill_the_fields_and_fields_leave_the_preset(page: Page) -> None:
    opened(page).get_by_label("Subtle").check()
    expect(page.locator("#motion_bucket_id")).to_have_value("51")
    expect(page.get_by_label("Subtle")).to_be_checked()
    expect(page.locator("#set")).to_contain_text("motion 51")
    unfold(page)
    page.fill("#motion_bucket_id", "90")
    expect(page.get_by_label("Subtle")).not_to_be_checked()
    seed = page.locator("#seed").input_value()
    page.get_by_role("button", name="Random").click()
    expect(page.locator("#seed")).not_to_have_value(seed)


def test_a_tier_has_its_number_of_steps_and_is_told(page: Page) -> None:
    unfold(opened(page))
    page.select_option("#tier", "fast")
    expect(page.locator("#num_inference_steps")).to_have_value("10")
    page.select_option("#tier", "reuse")
    expect(page.locator("#num_inference_steps")).to_have_value("25")
    render(page, seed="8")
    expect_playing(page)
    expect(page.locator("#facts")).to_contain_text("7 fps · motion 127 · tier reuse · seed 8")


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_no_sideways_scroll_on_a_phone(page: Page, scheme: Any) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 360, "height": 740})
    opened(page)
    expect(page.locator("#workers tr").first).to_be_visible()
    unfold(page)
    page.locator("#gallery a").first.click()
    expect(page.locator("#told")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 19, 20)"
    assert dark == (scheme == "dark")


def test_an_operator_drains_a_worker(page: Page) -> None:
    opened(page)
    row = page.locator("#workers tr", has_text="renderer-0")
    row.get_by_role("button", name="Drain: renderer-0").click()
    expect(row).to_contain_text("drained")
    row.get_by_role("button", name="Resume").click()
    expect(row).to_contain_text("idle")


def test_a_key_is_asked_for_once_and_goes_with_media(page: Page, faults: list[str]) -> None:
    """The farm here has no keys: its refusals are played, and what is sent is looked at."""

    def guard(route: Route, request: Request) -> None:
        if request.headers.get("authorization") != "Bearer sesame":
            route.fulfill(status=401, json={"error": {"message": "the key is not known here"}})
        elif request.url.endswith("/v1/farm"):
            route.fulfill(status=403, json={"error": {"message": "the key is no operator's"}})
        else:
            route.continue_()

    page.route("**/v1/**", guard)
    page.goto("/")
    for key in ("wrong", "sesame"):
        page.get_by_label("Key").fill(key)
        page.keyboard.press("Enter")
        if key == "wrong":
            expect(page.locator("#key-error")).to_have_text("The key is not known here")
    expect(page.locator("#main")).to_be_visible()
    render(page, seed="9")
    expect_playing(page)
    assert page.evaluate("document.getElementById('video').src").startswith("blob:")
    expect(page.locator("#farm")).to_be_hidden()
    page.reload()
    expect_playing(page)
    page.get_by_role("button", name="Forget key").click()
    expect(page.locator("#key-form")).to_be_visible()
    assert all("401" in fault or "403" in fault for fault in faults)
    faults.clear()


def test_files_are_asked_for_anew_and_sent_once(url: str) -> None:
    with httpx2.Client(base_url=url) as http:
        page = http.get("/")
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        again = http.get("/", headers={"If-None-Match": page.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        script = http.get("/page/app.js")
        assert script.headers["content-type"] == "text/javascript; charset=utf-8"
        assert script.headers["cache-control"] == "no-cache"
        assert [http.get(f"/page/{name}").status_code for name in ("x.js", "..%2Fpage.py")] == [
            404
        ] * 2
        assert not {"/", "/page/{name}"} & set(http.get("/openapi.json").json()["paths"])
