"""HTTP on real Ray Serve: OpenAI's client, ranges, events, idempotency, hostile bodies."""

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import ray

from tests.support.collector import Collector, collector
from tests.support.farm_jobs import wait_for
from tests.support.ingress_server import serving
from tests.support.video_client import PICTURE, create, finished


@pytest.fixture(scope="module")
def traces() -> Iterator[Collector]:
    with collector() as there:
        yield there


@pytest.fixture(scope="module")
def http(
    tmp_path_factory: pytest.TempPathFactory, ray_cluster: None, traces: Collector
) -> Iterator[httpx2.Client]:
    # The coordinator and the workers have these variables from the replica that starts them.
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": traces.url, "OTEL_BSP_SCHEDULE_DELAY": "200"}
    store = tmp_path_factory.mktemp("store")
    with (
        serving(store, variables=variables, max_body=2**20, max_jobs=50) as url,
        httpx2.Client(base_url=url, timeout=120) as client,
    ):
        yield client


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
    seen = events(http, video)
    assert [number for number, _, _ in seen] == list(range(1, len(seen) + 1))
    names = [name for _, name, _ in seen]
    assert names[:2] == ["submitted", "start"]
    assert names[-1] == "complete"
    assert "progress" in names
    assert events(http, video, after=2) == seen[2:]
    assert events(http, video, after=len(seen)) == []


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


def test_health_models_and_workers(http: httpx2.Client) -> None:
    assert http.get("/healthz").json() == {"status": "ok"}
    assert http.get("/readyz").json() == {"status": "ok", "workers": 2}
    assert http.get("/v1/models").json()["data"][0]["id"] == "tiny"
    wait_for(lambda: http.get("/v1/farm").json()["workers"]["decoder-0"]["state"] == "idle")
    for call, state in (("drain", "drained"), ("undrain", "idle")):
        farm = http.post(f"/v1/farm/workers/decoder-0/{call}").json()
        assert farm["workers"]["decoder-0"]["state"] == state
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


def test_requests_are_in_rays_metrics(http: httpx2.Client) -> None:
    http.get("/v1/videos/unknown")
    (node,) = ray.nodes()
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    labels = ('route="/v1/videos/{video_id}"', 'status="404"', 'method="GET"')

    def counted() -> bool:
        lines = httpx2.get(url).text.splitlines()
        found = [line for line in lines if line.startswith("ray_farm_http_requests_total{")]
        return any(all(label in line for label in labels) for line in found)

    wait_for(counted)


def test_one_id_from_the_request_to_a_workers_log(http: httpx2.Client) -> None:
    made = create(http, headers={"X-Request-ID": "from-the-client"}, seed=77)
    assert made.headers.get_list("x-request-id") == ["from-the-client"]
    assert len(http.get("/v1/models").headers.get_list("x-request-id")) == 1
    finished(http, made.json()["id"])
    logs = Path(ray._private.worker._global_node.get_logs_dir_path())

    def lines(word: str) -> list[str]:
        texts = (path.read_text(errors="replace") for path in logs.glob("worker-*.err"))
        found = [line for text in texts for line in text.splitlines()]
        return [line for line in found if word in line and "=from-the-client" in line]

    assert wait_for(lambda: lines("POST /v1/videos 200"))  # a replica's
    assert wait_for(lambda: lines("conditioning on "))  # the coordinator's
    (line,) = wait_for(lambda: lines("conditioning took "))  # the worker's
    fields = dict(field.split("=") for field in line.partition("  [")[2].rstrip("]").split())
    assert fields["job"] == made.json()["id"]
    assert fields["worker"].startswith("renderer")
    assert set(fields) >= {"clip", "task", "attempt", "tenant"}


def test_one_trace_through_all_processes(http: httpx2.Client, traces: Collector) -> None:
    trace, caller = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    headers = {"traceparent": f"00-{trace}-{caller}-01"}
    job = create(http, headers=headers, seed=78).json()["id"]
    stages = ("encode", "denoise", "decode", "mux")
    spans = traces.of(trace, "POST /v1/videos", "job", *stages)
    (request,), (of_job,) = spans["POST /v1/videos"], spans["job"]
    assert (request.service, request.parent) == ("svd-farm-http", caller)
    assert (of_job.service, of_job.parent) == ("svd-farm-coordinator", request.span)
    for task in [task for stage in stages for task in spans[stage]]:
        assert (task.service, task.parent) == ("svd-farm-worker", of_job.span)
        assert task.attributes["job"] == job
