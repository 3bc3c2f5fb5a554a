"""Stability's image-to-video API with all its statuses, and the keys of both APIs."""

import base64
import hashlib
import json
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import httpx2
import pytest
from PIL import ExifTags, Image

from tests.conftest import draw_picture
from tests.support.farm_jobs import picture_bytes, wait_for
from tests.support.inline_door import inline_serving

PATH = "/v2beta/image-to-video"
TENANTS = {"sesame": "acme", "open": "other", "root": "acme", "slow": "acme"}
SMALL = {"size": "64x48", "num_frames": "5", "steps": "5"}


def hashed(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    keys = {
        hashed(key): {"tenant": tenant, "operator": key == "root"}
        | ({"per_minute": 12} if key == "slow" else {})
        for key, tenant in TENANTS.items()
    }
    settings = {"keys": keys, "max_body": 2**20, "max_jobs": 4}
    with (
        inline_serving(tmp_path_factory.mktemp("store"), **settings) as url,
        httpx2.Client(base_url=url, timeout=120, headers=bearer("sesame")) as client,
    ):
        yield client


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def large(width: int = 768, height: int = 768, kind: str = "JPEG", orientation: int = 1) -> bytes:
    buffer, exif = BytesIO(), Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    draw_picture(width, height).save(buffer, kind, exif=exif)
    return buffer.getvalue()


def start(http: httpx2.Client, picture: bytes, **fields: Any) -> httpx2.Response:
    form = {name: str(value) for name, value in fields.items()}
    return http.post(PATH, data=form, files={"image": ("a.jpg", picture, "image/jpeg")})


def video_job(http: httpx2.Client, **fields: str) -> str:
    files = {"input_reference": ("a.png", picture_bytes(), "image/png")}
    answer = http.post("/v1/videos", data={**SMALL, **fields}, files=files)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def spelt(job: str) -> str:
    """A job's id as this API has it."""
    return job.encode().hex().ljust(64, "0")


def test_a_generation_is_started_and_asked_for(http: httpx2.Client) -> None:
    started = start(http, large(), seed=7, cfg_scale=2.5, motion_bucket_id=90)
    assert started.status_code == 200, started.text
    name = started.json()["id"]
    assert len(name) == 64
    pending = http.get(f"{PATH}/result/{name}")
    assert (pending.status_code, pending.json()) == (202, {"id": name, "status": "in-progress"})
    job = bytes.fromhex(name).rstrip(b"\0").decode()
    body = http.get(f"/v1/videos/{job}").json()  # the same job, by its other name
    assert (body["size"], body["seed"]) == ("768x768", 7)
    http.post(f"/v1/videos/{job}/cancel")
    ended = http.get(f"{PATH}/result/{name}")
    assert (ended.status_code, ended.json()["name"]) == (404, "not_found")
    assert ended.json()["errors"] == [f"id: the generation {name} was cancelled"]


def test_a_seed_of_0_is_one_by_chance(http: httpx2.Client) -> None:
    names = [start(http, large(1024, 576)).json()["id"] for _ in range(2)]
    jobs = [bytes.fromhex(name).rstrip(b"\0").decode() for name in names]
    seeds = [http.get(f"/v1/videos/{job}").json()["seed"] for job in jobs]
    assert seeds[0] != seeds[1]
    for job in jobs:
        http.delete(f"/v1/videos/{job}")


def test_a_picture_on_its_side_is_stood_up(http: httpx2.Client) -> None:
    name = start(http, large(1024, 576, orientation=6)).json()["id"]
    job = bytes.fromhex(name).rstrip(b"\0").decode()
    assert http.get(f"/v1/videos/{job}").json()["size"] == "576x1024"
    http.delete(f"/v1/videos/{job}")


def test_a_result_is_a_video_or_json(http: httpx2.Client) -> None:
    job = video_job(http, seed="5")
    wait_for(lambda: http.get(f"/v1/videos/{job}").json()["status"] == "completed")
    path = f"{PATH}/result/{spelt(job)}"
    video = http.get(path, headers={"Accept": "video/*"})
    assert (video.status_code, video.headers["content-type"]) == (200, "video/mp4")
    assert (video.headers["finish-reason"], video.headers["seed"]) == ("SUCCESS", "5")
    body = http.get(path, headers={"Accept": "application/json"}).json()
    assert base64.b64decode(body["video"]) == video.content
    assert (body["finish_reason"], body["seed"]) == ("SUCCESS", 5)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"seed": 4294967295}, "seed: must be from 0 to 4294967294, got 4294967295"),
        ({"cfg_scale": 10.5}, "cfg_scale: must be from 0.0 to 10.0"),
        ({"cfg_scale": "nan"}, "cfg_scale: must be from"),
        ({"motion_bucket_id": 0}, "motion_bucket_id: must be from 1 to 255"),
        ({"motion_bucket_id": "much"}, "motion_bucket_id: must be a whole number"),
        ({"steps": 5}, "Unknown parameter 'steps'"),
    ],
)
def test_bad_requests_are_400(http: httpx2.Client, fields: dict[str, Any], words: str) -> None:
    answer = start(http, large(), **fields)
    body = answer.json()
    assert (answer.status_code, body["name"]) == (400, "bad_request")
    assert set(body) == {"id", "name", "errors"}
    assert words in body["errors"][0]


def test_the_other_statuses(http: httpx2.Client) -> None:
    none = http.post(PATH, data={"seed": "1"}, files={"nothing": b""})
    assert (none.status_code, none.json()["name"]) == (400, "bad_request")
    odd = start(http, large(640, 480))
    assert odd.json()["errors"] == ["image: must be 1024x576, 576x1024, 768x768; got 640x480"]
    broken = start(http, b"nonsense")
    assert (broken.status_code, broken.json()["name"]) == (422, "unprocessable_entity")
    heavy = start(http, bytes(2**21))
    assert (heavy.status_code, heavy.json()["name"]) == (413, "payload_too_large")
    for name in ("0" * 64, spelt("job-nobody"), "nonsense"):
        answer = http.get(f"{PATH}/result/{name}")
        assert answer.status_code == (400 if name == "nonsense" else 404)
        assert set(answer.json()) == {"id", "name", "errors"}
    jobs = [video_job(http, seed=str(n), steps="900") for n in range(4)]
    full = start(http, large())
    assert (full.status_code, full.json()["name"]) == (429, "rate_limit_exceeded")
    assert int(full.headers["retry-after"]) >= 1
    for job in jobs:
        http.delete(f"/v1/videos/{job}")


def test_who_has_no_key_sees_nothing(http: httpx2.Client) -> None:
    job = video_job(http, seed="6")
    for path in ("/v1/videos", f"/v1/videos/{job}", "/v1/farm", "/v1/models"):
        for header, code in (("", "missing_api_key"), ("Bearer wrong", "invalid_api_key")):
            answer = http.get(path, headers={"Authorization": header})
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, code)
            assert answer.headers["www-authenticate"] == "Bearer"
    answer = http.get(f"{PATH}/result/{spelt(job)}", headers={"Authorization": ""})
    assert (answer.status_code, answer.json()["name"]) == (401, "unauthorized")
    assert http.get("/healthz", headers={"Authorization": ""}).status_code == 200


def test_a_key_sees_its_tenants_jobs_alone(http: httpx2.Client) -> None:
    job = video_job(http, seed="8")
    assert job in [v["id"] for v in http.get("/v1/videos").json()["data"]]
    assert http.get(f"/v1/videos/{job}", headers=bearer("root")).status_code == 200
    assert http.get("/v1/videos", headers=bearer("open")).json()["data"] == []
    calls = [("GET", ""), ("GET", "/content"), ("GET", "/events"), ("DELETE", "")]
    for method, rest in (*calls, ("POST", "/cancel"), ("POST", "/pause"), ("POST", "/resume")):
        answer = http.request(method, f"/v1/videos/{job}{rest}", headers=bearer("open"))
        assert answer.status_code == 404, (method, rest)
    assert http.get(f"{PATH}/result/{spelt(job)}", headers=bearer("open")).status_code == 404
    wait_for(lambda: http.get(f"/v1/videos/{job}").json()["status"] == "completed")


def test_a_key_may_ask_so_often_and_no_more(http: httpx2.Client) -> None:
    """Twelve a minute are two at once."""
    answers = [http.get("/v1/models", headers=bearer("slow")) for _ in range(8)]
    statuses = [answer.status_code for answer in answers]
    assert statuses[0] == 200
    assert 1 <= statuses.count(200) <= 3
    (refused, *_) = (answer for answer in answers if answer.status_code == 429)
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert 1 <= int(refused.headers["retry-after"]) <= 10


def test_only_an_operators_key_sees_the_farm(http: httpx2.Client) -> None:
    refused = http.get("/v1/farm")
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "operators_only")
    body = http.get("/v1/farm", headers=bearer("root")).json()
    assert "renderer-0" in body["workers"]
    assert json.dumps(body).count("sesame") == 0
