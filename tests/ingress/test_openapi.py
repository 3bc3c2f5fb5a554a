"""The OpenAPI schema is correct: schemathesis tries every operation of the running app."""

import base64
import re
from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from typing import Any, cast

import httpx2
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from PIL import Image
from schemathesis.checks import not_a_server_error
from schemathesis.generation.case import Case
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from farm.ingress.app import make_app
from farm.model.farm_api import FarmApi
from farm.settings import Settings
from tests.support.farm_jobs import picture_bytes, wait_for
from tests.support.inline_door import inline_serving

MAX_JOBS = 6
PICTURE = picture_bytes()
DATA_URL = "data:image/png;base64," + base64.b64encode(PICTURE).decode()
SMALL = {"width": 64, "height": 48, "num_frames": 2, "num_inference_steps": 2}
LONG = {**SMALL, "num_inference_steps": 900}
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
# Of the same code as the app that is asked, so that each operation is a test of its own.
SCHEMA = schemathesis.openapi.from_dict(
    make_app(cast("FarmApi", None), Settings()).openapi(), config=schemathesis.Config(seed=0)
)
CREATE, CHECK = "POST /v1/videos", "POST /v1/videos/check"


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    store = tmp_path_factory.mktemp("store")
    with (
        inline_serving(store, models=["tiny"], max_jobs=MAX_JOBS, max_body=2**20) as url,
        httpx2.Client(base_url=url, timeout=60) as client,
    ):
        yield client
        clear(client)


@pytest.fixture(scope="module")
def jobs(http: httpx2.Client) -> dict[str, str]:
    """A completed video, one to be cancelled, and one that is paused."""
    made = {"done": SMALL, "open": LONG, "paused": LONG | {"seed": 1}}
    ids = {name: create(http, fields).json()["id"] for name, fields in made.items()}
    http.post(f"/v1/videos/{ids['paused']}/pause").raise_for_status()
    wait_for(lambda: http.get(f"/v1/videos/{ids['done']}").json()["status"] == "completed")
    return ids


@pytest.fixture(scope="module")
def calls() -> Counter[str]:
    """How often each operation was called."""
    return Counter()


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    """One connection for all calls."""
    with requests.Session() as session:
        yield session


def test_the_schema_is_the_one_served(http: httpx2.Client) -> None:
    assert http.get("/openapi.json").json() == SCHEMA.raw_schema


def test_answers_we_know(http: httpx2.Client) -> None:
    done, open_, cancelled = (
        create(http, fields).json()["id"] for fields in (SMALL, LONG, LONG | {"seed": 1})
    )
    http.post(f"/v1/videos/{cancelled}/cancel")
    wait_for(lambda: http.get(f"/v1/videos/{done}").json()["status"] == "completed")

    def ask(status: int, method: str, path: str, name: str = "", **options: Any) -> None:
        answer = http.request(method, re.sub("{.*}", name, path), **options)
        assert answer.status_code == status, answer.text
        documented = SCHEMA.raw_schema["paths"][path][method.lower()]["responses"]
        kind = answer.headers["content-type"].partition(";")[0]
        assert kind in documented[str(status)]["content"]
        answer.request.read()
        SCHEMA[path][method].validate_response(answer)  # the body alone

    video_id = "/v1/videos/{video_id}"
    content = f"{video_id}/content"
    for video in (done, open_, cancelled):
        ask(200, "GET", video_id, video)
        ask(200 if video == done else 404, "GET", content, video)
    ask(200, "GET", content, done, params={"variant": "thumbnail"})
    ask(206, "GET", content, done, headers={"Range": "bytes=1-3"})
    ask(416, "GET", content, done, headers={"Range": "bytes=99999999-"})
    ask(200, "GET", f"{video_id}/events", done)
    ask(409, "POST", f"{video_id}/pause", done)
    ask(200, "POST", f"{video_id}/pause", open_)
    ask(200, "POST", f"{video_id}/resume", open_)
    result = "/v2beta/image-to-video/result/{id}"
    ask(200, "GET", result, spelt(done))
    ask(200, "GET", result, spelt(done), headers={"Accept": "application/json"})
    ask(202, "GET", result, spelt(open_))
    ask(403, "GET", "/v1/models", headers={"Origin": "https://elsewhere.example"})
    ask(415, "POST", "/v1/videos", content=b"x", headers={"Content-Type": "text/plain"})
    ask(413, "POST", "/v1/videos/check", json={"prompt": "x" * 2**20})
    ask(200, "POST", "/v2beta/image-to-video", files={"image": large_picture()})
    body = {**LONG, "input_reference": DATA_URL}
    same = {"Idempotency-Key": "one"}
    ask(200, "POST", "/v1/videos", json=body, headers=same)
    ask(409, "POST", "/v1/videos", json={**body, "seed": 2}, headers=same)
    while create(http, LONG | {"seed": len(listed(http))}).status_code == 200:
        pass
    ask(429, "POST", "/v1/videos", json={**body, "seed": 3})
    ask(429, "POST", "/v2beta/image-to-video", files={"image": large_picture()})
    clear(http)


@SCHEMA.parametrize()
@settings(
    max_examples=20,
    derandomize=True,
    database=None,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
def test_answers_are_as_documented(
    case: Case[Any],
    http: httpx2.Client,
    session: requests.Session,
    jobs: dict[str, str],
    calls: Counter[str],
) -> None:
    label = case.operation.label
    calls[label] += 1
    # These two take the same fields, by hundreds of examples: each has a third of them.
    if label in (CREATE, CHECK) and calls[label] % 3 != (label == CREATE):
        return
    if calls[label] % 4 == 0:
        make_real(case, http, jobs)
    case.call_and_validate(str(http.base_url), session, checks=CHECKS, timeout=60)


def make_real(case: Case[Any], http: httpx2.Client, jobs: dict[str, str]) -> None:
    """Have a case ask for what there is; the rest of it stays as it was drawn."""
    label, names = case.operation.label, case.path_parameters
    if label == "DELETE /v1/videos/{video_id}":
        names["video_id"] = create(http, SMALL | {"seed": 7}).json()["id"]
    elif "video_id" in names:
        word = label.rpartition("/")[2]
        kind = {"cancel": "open", "pause": "paused", "resume": "paused"}.get(word, "done")
        names["video_id"] = jobs[kind]
    elif "id" in names:
        names["id"] = spelt(jobs["done"])
    elif "name" in names:
        names["name"] = "decoder-0"
    elif label in (CREATE, CHECK) and isinstance(case.body, dict):
        form = case.media_type == "multipart/form-data"
        body: dict[str, Any] = {**case.body, "input_reference": PICTURE if form else DATA_URL}
        body.pop("variant", None)  # weights are looked for in a new process: seconds
        if label == CREATE:  # what is taken on is to be done soon
            kept: dict[str, Any] = {
                name: body[name] for name in ("input_reference", "seed", "prompt") if name in body
            }
            body = {**SMALL, **kept}
        case.body = body


def create(http: httpx2.Client, fields: dict[str, int]) -> httpx2.Response:
    return http.post("/v1/videos", json={**fields, "input_reference": DATA_URL})


def listed(http: httpx2.Client) -> list[dict[str, Any]]:
    return list(http.get("/v1/videos", params={"limit": 100}).json()["data"])


def clear(http: httpx2.Client) -> None:
    while videos := listed(http):
        for video in videos:
            http.delete(f"/v1/videos/{video['id']}")


def spelt(video: str) -> str:
    """A video's id as Stability's API has it."""
    return video.encode().hex().ljust(64, "0")


def large_picture() -> tuple[str, bytes, str]:
    buffer = BytesIO()
    Image.new("RGB", (768, 768)).save(buffer, "PNG")
    return ("a.png", buffer.getvalue(), "image/png")
