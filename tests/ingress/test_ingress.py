"""The HTTP API before a farm in this process: lists, parameters, previews, what is refused."""

import base64
import json
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import httpx2
import openai
import pytest
from PIL import Image

from tests.support.farm_jobs import wait_for
from tests.support.inline_door import inline_serving
from tests.support.video_client import PICTURE, SMALL, create

DATA_URL = "data:image/png;base64," + base64.b64encode(PICTURE[1]).decode()


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    store = tmp_path_factory.mktemp("store")
    with (
        inline_serving(store, models=["tiny"], max_jobs=20) as url,
        httpx2.Client(base_url=url, timeout=120) as client,
    ):
        yield client


def test_lists_come_in_pages(http: httpx2.Client, sdk: openai.OpenAI) -> None:
    made = [create(http, seed=100 + n).json()["id"] for n in range(5)]
    assert [video.id for video in sdk.videos.list(limit=2)][:5] == made[::-1]
    listed = [video.id for video in sdk.videos.list(limit=2, order="asc")]
    assert listed == sorted(listed)
    assert listed[-5:] == made
    page = http.get("/v1/videos", params={"limit": 2, "order": "asc", "after": made[2]}).json()
    assert [video["id"] for video in page["data"]] == made[3:]
    assert (page["first_id"], page["last_id"], page["has_more"]) == (*made[3:], False)
    for video in made:
        http.delete(f"/v1/videos/{video}").raise_for_status()


@pytest.mark.parametrize(
    "body",
    [
        {"input_reference": DATA_URL},
        {"input_reference": {"image_url": DATA_URL}},
        {"image_reference": json.dumps({"image_url": DATA_URL})},
    ],
)
def test_json_and_data_urls(http: httpx2.Client, body: dict[str, Any]) -> None:
    answer = http.post("/v1/videos/check", json={**SMALL, "sigmas": [80, 5, 0], **body})
    assert answer.status_code == 200, answer.text
    checked = answer.json()
    assert checked["video"]["steps"] == checked["unet_steps"] == 2
    assert checked["videos_done"] == 0


def test_names_of_other_apis(http: httpx2.Client) -> None:
    fields = {"cfg_scale": 2, "cond_aug": 0.1, "video_frames": 3, "seconds": "9", "seed": 9}
    form = {"size": "64x48", "model": "tiny", "steps": "4", "fps": "3", **fields}
    files = {"input_reference": PICTURE}
    video = http.post("/v1/videos/check", data=form, files=files).json()["video"]
    assert (video["num_frames"], video["fps"], video["steps"], video["seed"]) == (3, 3, 4, 9)
    del form["video_frames"]
    video = http.post("/v1/videos/check", data=form, files=files).json()["video"]
    assert video["num_frames"] == 27  # nine seconds of three


def test_previews_come_with_the_events(http: httpx2.Client) -> None:
    video = create(http, seed=30, steps=60, fps=5).json()["id"]
    with http.stream("GET", f"/v1/videos/{video}/events") as stream:
        data = (json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: "))
        event = next(entry for entry in data if "image" in entry)
    assert (event["seed"], event["step"] % 10) == (30, 0)
    kind, image = event["image"].split(",")
    assert kind == "data:image/webp;base64"
    with Image.open(BytesIO(base64.b64decode(image))) as preview:
        preview.load()
        assert (preview.size, preview.info["duration"]) == ((64, 48), 200)
        assert 1 <= getattr(preview, "n_frames", 1) <= 5  # of frames that are alike one is kept
    http.post(f"/v1/videos/{video}/cancel")
    again = http.get(f"/v1/videos/{video}/events").text
    assert "event: preview" in again
    assert '"image"' not in again  # it went with the clip


def test_cancel_delete_pause_and_resume(http: httpx2.Client) -> None:
    video = create(http, seed=7, steps=900).json()["id"]
    wait_for(lambda: http.get(f"/v1/videos/{video}").json()["status"] == "in_progress")
    not_ready = http.get(f"/v1/videos/{video}/content")
    assert (not_ready.status_code, not_ready.json()["error"]["code"]) == (404, "video_not_ready")
    assert http.post(f"/v1/videos/{video}/pause").json()["state"] == "paused"
    assert http.post(f"/v1/videos/{video}/pause").status_code == 409
    assert http.post(f"/v1/videos/{video}/resume").json()["status"] in ("queued", "in_progress")
    cancelled = http.post(f"/v1/videos/{video}/cancel").json()
    assert (cancelled["status"], cancelled["error"]["code"]) == ("failed", "cancelled")
    gone = http.get(f"/v1/videos/{video}/content")
    assert gone.json()["error"]["code"] == "cancelled"
    other = create(http, seed=8, steps=900).json()["id"]
    assert http.delete(f"/v1/videos/{other}").json()["deleted"]
    assert http.get(f"/v1/videos/{other}").status_code == 404
    assert http.delete(f"/v1/videos/{other}").status_code == 404


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"motion_bucket": 7}, "motion_bucket", "Did you mean 'motion_bucket_id'?"),
        ({"fps": 0}, "fps", "greater than or equal to 1, got 0"),
        ({"size": "63x48"}, "width", "multiple of 8"),
        ({"size": "big"}, "size", "WIDTHxHEIGHT"),
        ({"steps": 5, "num_inference_steps": 6}, "num_inference_steps", "num_inference_steps is"),
        ({"model": "../../etc"}, "model", "there is tiny"),
        ({"sigmas": "[1,"}, "sigmas", "joined by commas"),
        ({"seconds": "nan"}, "seconds", "above 0"),
        ({"num_videos": 0}, "num_videos", "greater than or equal to 1"),
        ({"priority": "high"}, "priority", "valid integer"),
        ({"webhook_url": "http://x"}, "webhook_url", "its operator must set FARM_WEBHOOK_SECRET"),
    ],
)
def test_what_is_wrong_is_named(
    http: httpx2.Client, fields: dict[str, Any], param: str, words: str
) -> None:
    form = {
        key: value for key, value in SMALL.items() if key != "num_frames" or "seconds" not in fields
    }
    answer = http.post(
        "/v1/videos",
        data={**form, **{name: str(value) for name, value in fields.items()}},
        files={"input_reference": PICTURE},
    )
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param)
    assert words in error["message"]
    assert error["type"] == "invalid_request_error"
    assert answer.headers["x-should-retry"] == "false"


def test_what_there_is_not(http: httpx2.Client) -> None:
    for path in ("nobody", "nobody/content", "nobody/events", ".farm-nobody"):
        answer = http.get(f"/v1/videos/{path}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert http.get("/nowhere").json()["error"]["code"] == "not_found"
    assert http.post("/v1/videos/edits").json()["error"]["code"] == "unsupported"
    assert http.get("/v1/videos", params={"limit": 0}).json()["error"]["param"] == "limit"


def test_a_full_farm_says_when_to_come_again(http: httpx2.Client, sdk: openai.OpenAI) -> None:
    made = [create(http, seed=300, steps=900).json()["id"]]
    while (answer := create(http, seed=300 + len(made))).status_code == 200:
        made.append(answer.json()["id"])
        assert len(made) <= 20
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "queue_full")
    assert int(answer.headers["retry-after"]) >= 1
    for video in made:
        http.delete(f"/v1/videos/{video}")
