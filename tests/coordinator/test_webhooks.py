"""Webhooks: OpenAI's client verifies their signatures, and failures are retried."""

import base64
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from farm.coordinator.webhooks import check_webhook, event_of, signed
from farm.errors import RequestError
from farm.model.job import JobRecord, State
from farm.model.request import RenderRequest
from farm.settings import load_settings
from farm.store import open_store
from farm.store.keys import WEBHOOKS
from tests.support.farm_jobs import finish, open_farm, picture_bytes, submission, wait_for
from tests.support.inline_door import inline_serving
from tests.support.receiver import SECRET, Receiver, ended

PICTURE = ("a.png", picture_bytes(), "image/png")
SMALL = {"size": "64x48", "num_frames": "5", "steps": "5", "model": "tiny"}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


def test_openais_client_verifies_what_is_signed() -> None:
    event = event_of(ended())
    assert event is not None
    headers = signed(event, SECRET, time.time())
    client = openai.OpenAI(api_key="none", webhook_secret=SECRET)
    client.webhooks.verify_signature(event.body, headers)
    received: Any = client.webhooks.unwrap(event.body, headers)
    assert (received.type, received.object) == ("video.completed", "event")
    assert (received.id, received.data.id) == (headers["webhook-id"], "job-1")
    assert received.created_at == event.ended_ms // 1000
    assert set(json.loads(event.body)) == {"id", "object", "created_at", "type", "data"}
    other = "whsec_" + base64.b64encode(bytes(32)).decode()
    for body, made in (
        (event.body + b" ", headers),
        (event.body, signed(event, other, time.time())),
        (event.body, signed(event, SECRET, time.time() - 301)),
        (event.body, headers | {"webhook-id": "evt_other"}),
    ):
        with pytest.raises(openai.InvalidWebhookSignatureError):
            client.webhooks.verify_signature(body, made)


@pytest.mark.parametrize("state", [State.FAILED, State.CANCELLED])
def test_what_has_no_video_has_failed(state: State) -> None:
    event = event_of(ended(state))
    assert event is not None
    assert event.type == "video.failed"


def test_ids_of_events() -> None:
    """Equal for the same end; a job deleted and submitted again under its id ends another time."""
    job = ended(id="größe")
    assert event_of(job) == event_of(JobRecord.model_validate_json(job.model_dump_json()))
    again = job.model_copy(update={"finished_at": (job.finished_at or 0) + 1})
    first, second = event_of(job), event_of(again)
    assert first is not None
    assert second is not None
    assert first.id != second.id
    assert first.id.isascii()
    assert event_of(job.model_copy(update={"webhook_url": None})) is None


def test_who_is_told_changes_no_pixel() -> None:
    assert not [name for name in RenderRequest.model_fields if "webhook" in name]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nonsense", "not a URL of the web"),
        ("ftp://a.example/", "not a URL of the web"),
        ("http://user:word@a.example/", "a user name or a password"),
        ("http://0x7f.1/", "0x7f.1 is no public address; its operator may allow those with FARM_"),
        ("http://localhost:80/", "localhost is no public address"),
        ("http://[fd00:ec2::254]/", "no public address"),
    ],
)
def test_urls_that_can_never_be_told(url: str, words: str) -> None:
    with pytest.raises(RequestError, match=r"^webhook_url: ") as caught:
        check_webhook(url, load_settings(webhook_secret=SECRET))
    assert words in str(caught.value)
    check_webhook("https://a.example/", load_settings(webhook_secret=SECRET))
    check_webhook("http://localhost/", load_settings(webhook_secret=SECRET, webhook_private=True))
    with pytest.raises(RequestError, match="its operator must set FARM_WEBHOOK_SECRET"):
        check_webhook("https://a.example/", load_settings())


@pytest.mark.parametrize("secret", ["", "abc", SECRET[6:], "whsec_!!", "whsec_", "whsec_c2hvcnQ="])
def test_secrets_that_are_none(secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARM_WEBHOOK_SECRET", secret)
    with pytest.raises(RequestError, match=r"FARM_WEBHOOK_SECRET: .*give whsec_") as caught:
        load_settings()
    assert not secret or f"got {secret!r}" not in str(caught.value)
    monkeypatch.setenv("FARM_WEBHOOK_SECRET", SECRET)
    assert SECRET not in repr(load_settings())


def left(folder: Path) -> list[str]:
    return list(open_store(folder.as_uri()).list(WEBHOOKS))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def http(folder: Path) -> Iterator[httpx2.Client]:
    with (
        inline_serving(folder, webhook_secret=SECRET, webhook_private=True) as url,
        httpx2.Client(base_url=url, timeout=120) as client,
    ):
        yield client


def create(http: httpx2.Client, url: str, **fields: str) -> str:
    form = {**SMALL, **fields, "webhook_url": url}
    answer = http.post("/v1/videos", data=form, files={"input_reference": PICTURE})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def status(http: httpx2.Client, video: str) -> str:
    return str(http.get(f"/v1/videos/{video}").json()["status"])


def test_a_receiver_that_fails_twice(http: httpx2.Client, receiver: Receiver, folder: Path) -> None:
    receiver.answers = [500, None]
    video = create(http, receiver.url, seed="1")
    wait_for(lambda: len(receiver.received) == 3, 120)
    assert [event.type for event in receiver.events()] == ["video.completed"] * 3
    assert {event.data.id for event in receiver.events()} == {video}
    assert len(receiver.ids()) == 1
    assert status(http, video) == "completed"
    wait_for(lambda: not left(folder))
    time.sleep(1)
    assert len(receiver.received) == 3


def test_what_was_cancelled_has_failed(http: httpx2.Client, receiver: Receiver) -> None:
    video = create(http, receiver.url, seed="2", steps="900")
    http.post(f"/v1/videos/{video}/cancel")
    late = create(http, receiver.url, seed="3", steps="900", finish_within_s="0.5")
    wait_for(lambda: len(receiver.received) == 2)
    assert {event.type for event in receiver.events()} == {"video.failed"}
    assert [event.data.id for event in receiver.events()] == [video, late]


def test_urls_that_are_refused(http: httpx2.Client) -> None:
    form = {**SMALL, "webhook_url": "file:///x"}
    for path in ("/v1/videos", "/v1/videos/check"):
        answer = http.post(path, data=form, files={"input_reference": PICTURE})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "webhook_url")


@pytest.mark.slow  # test_webhooks_owed has it with a coordinator in process
def test_a_coordinator_killed_before_the_delivery(
    receiver: Receiver, tiny: Path, tmp_path: Path, ray_cluster: None
) -> None:
    receiver.answers = [503] * 1000
    farm = open_farm(tmp_path, webhook_secret=SECRET, webhook_private=True)
    job = farm.submit(submission(tiny, webhook_url=receiver.url), PICTURE[1]).job.id
    assert finish(farm, job)[job].job.state is State.COMPLETED
    wait_for(lambda: receiver.received)
    assert len(left(tmp_path)) == 1
    killed = farm.ready()["pid"]
    os.kill(killed, signal.SIGKILL)
    receiver.answers = []
    wait_for(lambda: not left(tmp_path))
    assert farm.ready()["pid"] != killed
    assert len(receiver.ids()) == 1
    assert receiver.events()[-1].data.id == job
    assert farm.show(job).job.state is State.COMPLETED
