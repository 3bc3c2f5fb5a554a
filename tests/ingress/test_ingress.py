"""HTTP on real Ray Serve: OpenAI's client, ranges, events, idempotency, bad requests."""

import base64
import json
import socket
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any

import httpx2
import openai
import pytest
from PIL import Image

from tests.support.farm_jobs import picture_bytes, wait_for
from tests.support.ingress_server import serving

pytestmark = pytest.mark.ray

PICTURE = ("a.png", picture_bytes(), "image/png")
SMALL = {"size": "64x48", "num_frames": "5", "steps": "5", "model": "tiny"}
DATA_URL = "data:image/png;base64," + base64.b64encode(PICTURE[1]).decode()


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    with (
        serving(tmp_path_factory.mktemp("store"), max_body=2**20, max_jobs=50) as url,
        httpx2.Client(base_url=url, timeout=120) as client,
    ):
        yield client


@pytest.fixture
def sdk(http: httpx2.Client) -> Iterator[openai.OpenAI]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # OpenAI closed its own server
        yield openai.OpenAI(base_url=http.base_url.join("/v1"), api_key="none", max_retries=0)


def create(http: httpx2.Client, picture: Any = PICTURE, headers: Any = None, **fields: Any) -> Any:
    form = {**SMALL, **{name: str(value) for name, value in fields.items()}}
    files = {"input_reference": picture} if picture else None
    return http.post("/v1/videos", data=form, files=files, headers=headers)


def finished(http: httpx2.Client, video: str) -> dict[str, Any]:
    def look() -> Any:
        told = http.get(f"/v1/videos/{video}").json()
        return told if told["status"] in ("completed", "failed") else None

    return wait_for(look, 120)


def test_openais_client_makes_lists_downloads_and_deletes(sdk: openai.OpenAI) -> None:
    video = sdk.videos.create_and_poll(
        prompt="",
        model="tiny",
        input_reference=PICTURE,
        size="64x48",
        extra_body={"num_frames": 5, "num_inference_steps": 5, "motion_bucket_id": 90, "seed": 1},
    )
    assert (video.status, video.progress, video.size) == ("completed", 100, "64x48")
    assert video.seconds == "0.714286"
    extra = video.model_extra or {}
    assert (extra["state"], extra["seed"], extra["num_frames"]) == ("completed", 1, 5)
    assert extra["gpu_seconds"] > 0
    assert sdk.videos.download_content(video.id).content[4:8] == b"ftyp"
    for variant in ("thumbnail", "spritesheet"):
        content = sdk.videos.download_content(video.id, variant=variant).content  # type: ignore[arg-type]
        assert content[:2] == b"\xff\xd8"
    assert video.id in [each.id for each in sdk.videos.list()]
    assert sdk.videos.delete(video.id).deleted
    assert video.id not in [each.id for each in sdk.videos.list()]
    with pytest.raises(openai.NotFoundError, match="there is no video"):
        sdk.videos.retrieve(video.id)


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
        finished(http, video)


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
    told = answer.json()
    assert told["video"]["steps"] == told["unet_steps"] == 2
    assert told["videos_done"] == 0


def test_names_of_other_apis(http: httpx2.Client) -> None:
    fields = {"cfg_scale": 2, "cond_aug": 0.1, "video_frames": 3, "seconds": "9", "seed": 9}
    form = {"size": "64x48", "model": "tiny", "steps": "4", "fps": "3", **fields}
    files = {"input_reference": PICTURE}
    told = http.post("/v1/videos/check", data=form, files=files).json()["video"]
    assert (told["num_frames"], told["fps"], told["steps"], told["seed"]) == (3, 3, 4, 9)
    del form["video_frames"]
    told = http.post("/v1/videos/check", data=form, files=files).json()["video"]
    assert told["num_frames"] == 27  # nine seconds of three


def test_content_in_ranges(http: httpx2.Client) -> None:
    video = create(http, seed=2).json()["id"]
    finished(http, video)
    path = f"/v1/videos/{video}/content"
    whole = http.get(path)
    assert (whole.status_code, whole.headers["content-type"]) == (200, "video/mp4")
    size = len(whole.content)
    for asked, start, stop in (("0-3", 0, 4), ("4-", 4, size), ("-5", size - 5, size)):
        part = http.get(path, headers={"Range": f"bytes={asked}"})
        assert part.status_code == 206
        assert part.content == whole.content[start:stop]
        assert part.headers["content-range"] == f"bytes {start}-{stop - 1}/{size}"
    beyond = http.get(path, headers={"Range": f"bytes={size}-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{size}")
    assert http.get(path, params={"index": 1}).json()["error"]["param"] == "index"
    again = create(http, seed=2, steps=5, priority=51).json()  # its clip is there already
    assert finished(http, again["id"])["gpu_seconds"] == 0


def events(http: httpx2.Client, video: str, after: int | None = None) -> list[tuple[int, str, Any]]:
    """A video's events, read to the end of the stream; without the images, which are not kept."""
    headers = {} if after is None else {"Last-Event-ID": str(after)}
    text = http.get(f"/v1/videos/{video}/events", headers=headers).text
    found = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if line[:1] != ":")
        if lines:
            data = json.loads(lines["data"])
            data.pop("image", None)
            found.append((int(lines["id"]), lines["event"], data))
    return found


def test_events_are_told_and_told_again(http: httpx2.Client) -> None:
    video = create(http, seed=3, steps=12).json()["id"]
    told = events(http, video)
    assert [number for number, _, _ in told] == list(range(1, len(told) + 1))
    names = [name for _, name, _ in told]
    assert names[:2] == ["submitted", "start"]
    assert names[-1] == "complete"
    assert "progress" in names
    assert events(http, video, after=2) == told[2:]
    assert events(http, video, after=len(told)) == []


def test_previews_come_with_the_events(http: httpx2.Client) -> None:
    video = create(http, seed=30, steps=300, fps=5).json()["id"]
    with http.stream("GET", f"/v1/videos/{video}/events") as stream:
        data = (json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: "))
        told = next(entry for entry in data if "image" in entry)
    assert (told["seed"], told["step"] % 50) == (30, 0)
    kind, image = told["image"].split(",")
    assert kind == "data:image/webp;base64"
    with Image.open(BytesIO(base64.b64decode(image))) as preview:
        preview.load()
        assert (preview.size, preview.info["duration"]) == ((8, 6), 200)
        assert 1 <= getattr(preview, "n_frames", 1) <= 5  # of frames that are alike one is kept
    http.post(f"/v1/videos/{video}/cancel")
    again = http.get(f"/v1/videos/{video}/events").text
    assert "event: preview" in again
    assert '"image"' not in again  # it went with the clip


def test_a_request_sent_twice_is_one_job(http: httpx2.Client) -> None:
    key = {"Idempotency-Key": "one"}
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: create(http, headers=key, seed=4), range(8)))
    assert [answer.status_code for answer in answers] == [200] * 8
    assert len({answer.json()["id"] for answer in answers}) == 1
    other = create(http, headers=key, seed=5)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "conflict")
    first, second = create(http, seed=6).json()["id"], create(http, seed=6).json()["id"]
    assert first == second  # no key: the request is its own
    assert create(http, seed=6, priority=60).json()["id"] != first
    http.post(f"/v1/videos/{first}/cancel")
    if finished(http, first)["state"] == "cancelled":
        assert create(http, seed=6).json()["id"] != first


def test_cancel_delete_pause_and_resume(http: httpx2.Client) -> None:
    video = create(http, seed=7, steps=900).json()["id"]
    wait_for(lambda: http.get(f"/v1/videos/{video}").json()["status"] == "in_progress")
    not_ready = http.get(f"/v1/videos/{video}/content")
    assert (not_ready.status_code, not_ready.json()["error"]["code"]) == (404, "video_not_ready")
    assert http.post(f"/v1/videos/{video}/pause").json()["state"] == "paused"
    assert http.post(f"/v1/videos/{video}/pause").status_code == 409
    assert http.post(f"/v1/videos/{video}/resume").json()["status"] in ("queued", "in_progress")
    told = http.post(f"/v1/videos/{video}/cancel").json()
    assert (told["status"], told["error"]["code"]) == ("failed", "cancelled")
    gone = http.get(f"/v1/videos/{video}/content")
    assert gone.json()["error"]["code"] == "cancelled"
    other = create(http, seed=8, steps=900).json()["id"]
    assert http.delete(f"/v1/videos/{other}").json()["deleted"]
    assert http.get(f"/v1/videos/{other}").status_code == 404
    assert http.delete(f"/v1/videos/{other}").status_code == 404


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"motion_bucket": 7}, "motion_bucket", "did you mean 'motion_bucket_id'?"),
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


def test_pictures_that_are_none(http: httpx2.Client) -> None:
    missing = create(http, picture=None)
    assert missing.status_code in (400, 415)
    broken = create(http, picture=("a.png", b"nonsense", "image/png"))
    assert (broken.status_code, "not a picture" in broken.text) == (400, True)
    large = create(http, picture=("a.png", bytes(2**21), "image/png"))
    assert (large.status_code, large.json()["error"]["code"]) == (413, "too_large")
    chunks = http.post(
        "/v1/videos",
        content=(b"x" * 2**16 for _ in range(40)),
        headers={"Content-Type": "application/json"},
    )
    assert chunks.status_code == 413  # though nobody said how long it would be
    web = http.post("/v1/videos", json={"input_reference": "http://169.254.169.254/x.png"})
    assert (web.status_code, web.json()["error"]["param"]) == (400, "input_reference")
    assert (
        http.post(
            "/v1/videos", content=b"[", headers={"Content-Type": "application/json"}
        ).status_code
        == 400
    )


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
        assert len(made) <= 50
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "queue_full")
    assert int(answer.headers["retry-after"]) >= 1
    for video in made:
        http.delete(f"/v1/videos/{video}")


def test_health_models_and_workers(http: httpx2.Client) -> None:
    assert http.get("/healthz").json() == {"status": "ok"}
    assert http.get("/readyz").json() == {"status": "ok", "workers": 2}
    assert http.get("/v1/models").json()["data"][0]["id"] == "tiny"
    for call, state in (("drain", "drained"), ("undrain", "idle")):
        told = http.post(f"/v1/farm/workers/decoder-0/{call}").json()
        assert told["workers"]["decoder-0"]["state"] == state
    assert http.post("/v1/farm/workers/nobody/drain").status_code == 404
    foreign = http.get("/v1/videos", headers={"Origin": "https://elsewhere.example"})
    assert (foreign.status_code, foreign.json()["error"]["code"]) == (403, "other_origin")


def test_without_keys_a_proxy_is_refused(http: httpx2.Client) -> None:
    for name in ("X-Forwarded-For", "X-Real-IP", "Forwarded", "Via", "CF-Connecting-IP"):
        answer = http.get("/v1/models", headers={name: "127.0.0.1"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "keys_needed"), name
    page = http.get("/v1/models", headers={"Sec-Fetch-Site": "cross-site"})
    assert (page.status_code, page.json()["error"]["code"]) == (403, "other_origin")
    where = str(http.base_url.netloc.decode())
    host, _, port = where.partition(":")
    with socket.create_connection((host, int(port))) as nginx:  # as it asks by default
        nginx.sendall(f"GET /v1/models HTTP/1.0\r\nHost: {where}\r\n\r\n".encode())
        head, _, body = nginx.makefile("rb").read().partition(b"\r\n\r\n")
    assert b" 403 " in head.splitlines()[0]
    assert json.loads(body)["error"]["code"] == "keys_needed"
