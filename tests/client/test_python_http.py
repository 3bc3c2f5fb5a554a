"""`farm.connect(url)`: jobs over HTTP, and what can go wrong on the way."""

import socket
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import farm
from farm.client.progress_bar import describe, in_notebook
from farm.errors import (
    AccessError,
    JobCancelledError,
    JobError,
    JobFailedError,
    QueueFullError,
    RequestError,
    ServerError,
)
from farm.model.wire import Video
from tests.support.farm_jobs import picture_bytes
from tests.support.http_server import (
    FRAMES,
    VIDEO,
    Videos,
    cut_the_events,
    lose_the_answer,
    no_fault,
    say,
    send,
    serving,
)

PICTURE = picture_bytes()


@pytest.fixture
def server() -> Iterator[Videos]:
    with serving() as server:
        yield server


@pytest.fixture
def connection(server: Videos) -> Iterator[farm.Connection]:
    with farm.connect(server.url) as connection:
        yield connection


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up after a second, not a minute."""
    monkeypatch.setattr("farm.client.remote.Patience.__init__.__defaults__", (1.0,))


def test_a_job_over_http(server: Videos, connection: farm.Connection, tmp_path: Path) -> None:
    job = connection.submit(
        PICTURE, seed=np.int64(7), sigmas=[2, 0.5, 0], force=True, num_videos=2, fit=None
    )
    (asked,) = server.asked
    assert asked.picture == PICTURE
    assert asked.fields == {
        "seed": "7",
        "sigmas": "[2.0, 0.5, 0.0]",
        "force": "true",
        "num_videos": "2",
    }
    assert "authorization" not in asked.headers
    assert job.id == "job-0"
    assert job.status == "running"
    assert job.wait(progress=False) is job
    assert (job.status, job.progress.fraction, job.error) == ("completed", 1.0, None)
    assert job.save(tmp_path / "new" / "clip.mp4").read_bytes() == server.video
    assert np.abs(job.frames(video=1).astype(int) - FRAMES).max() <= 2  # through a redirect
    assert job.thumbnail() == b"\xff\xd8"
    assert connection.job(job.id).status == "completed"
    assert "data:video/mp4;base64," in job._repr_html_()
    job.cancel()  # too late
    assert job.status == "completed"


def test_a_lost_answer_never_renders_twice(server: Videos, connection: farm.Connection) -> None:
    server.faults = [lose_the_answer, lose_the_answer]
    first, second = connection.submit(PICTURE), connection.submit(PICTURE)
    assert (first.id, second.id) == ("job-0", "job-1")
    keys = [asked.headers["idempotency-key"] for asked in server.asked]
    assert len(keys) == 4
    assert len(set(keys)) == len(server.jobs) == 2


def test_what_passes_is_waited_for(server: Videos, connection: farm.Connection) -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=1.5), usegmt=True)
    server.faults = [
        say(429, "full", Retry_After="0.3"),
        say(503, "soon", Retry_After=later),
        say(502, "who?", Retry_After="tomorrow"),
        say(504, "hm"),
    ]
    began = time.monotonic()
    assert connection.submit(PICTURE).wait(progress=False).status == "completed"
    assert time.monotonic() - began > 0.8


def test_a_full_farm(server: Videos, connection: farm.Connection) -> None:
    server.faults = [say(429, "the farm has 9 open jobs", Retry_After="999")]
    with pytest.raises(QueueFullError, match="9 open jobs") as caught:
        connection.submit(PICTURE)
    assert caught.value.retry_after_s == 999


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, RequestError),
        (401, AccessError),
        (403, AccessError),
        (404, JobError),
        (409, JobError),
        (413, RequestError),
        (422, RequestError),
        (500, ServerError),
        (418, ServerError),
    ],
)
def test_errors_say_what_the_server_said(
    server: Videos, connection: farm.Connection, status: int, kind: type[Exception]
) -> None:
    server.faults = [say(status, "seed: not that one")]
    with pytest.raises(kind, match="seed: not that one"):
        connection.submit(PICTURE)
    assert len(server.asked) == 1


def test_a_key(server: Videos) -> None:
    server.key = "right"
    with farm.connect(server.url + "/", api_key="right") as connection:
        assert connection.submit(PICTURE).id == "job-0"
    refused = pytest.raises(AccessError, match=r"127\.0\.0\.1.*not known")
    with farm.connect(server.url, api_key="wrong") as connection, refused:
        connection.submit(PICTURE)
    with pytest.raises(RequestError, match="api_key"):
        farm.connect(server.url, api_key="schlüssel…")


@pytest.mark.parametrize(
    "answer",
    [
        send(200, b"<html>welcome</html>", "text/html"),
        send(200, b'{"id": "x"}'),
        send(500, b"<h1>it broke</h1>", "text/html"),
        send(500, b""),
    ],
)
def test_what_is_no_answer_of_a_farm(
    server: Videos, connection: farm.Connection, answer: Any
) -> None:
    server.faults = [answer]
    with pytest.raises(ServerError, match=f"{server.url}/v1/videos answered .*(wel|x|bro|Inter)"):
        connection.submit(PICTURE)


def test_no_server(hurried: None) -> None:
    with socket.socket() as closed:  # bound and not listening: nobody else gets the port
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with farm.connect(url) as connection, pytest.raises(ServerError, match=url):
            connection.submit(PICTURE)


@pytest.mark.parametrize("url", ["host:8000", "ftp://host", "http://", "http://a:b", ""])
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(RequestError, match="URL"):
        farm.connect(url)


def test_how_jobs_end(server: Videos, connection: farm.Connection, tmp_path: Path) -> None:
    job = connection.submit(PICTURE)
    assert "denoising, step 2 of 5, about 3 s left" in job._repr_html_()
    with pytest.raises(RequestError, match="video: job-0 has 1, counted from 0; got 1"):
        job.wait(progress=False).frames(video=1)
    stopped = connection.submit(PICTURE)
    stopped.cancel()
    assert stopped.status == "cancelled"
    with pytest.raises(JobCancelledError, match="job-1 was cancelled"):
        stopped.wait(progress=False)
    server.fails_with = "NaN <in> the latents"
    failed = connection.submit(PICTURE)
    with pytest.raises(JobFailedError, match="job-2 failed: NaN <in> the latents"):
        failed.wait(progress=False)
    assert "NaN &lt;in&gt;" in failed._repr_html_()
    with pytest.raises(JobFailedError):
        failed.save(tmp_path / "clip.mp4")
    assert not list(tmp_path.iterdir())
    with pytest.raises(JobError, match="no video"):
        connection.job("../x y")
    assert server.asked[-1].path == "/v1/videos/..%2Fx%20y"


def test_waiting_has_an_end(server: Videos, connection: farm.Connection, tmp_path: Path) -> None:
    server.looks_until_done = 10_000
    job = connection.submit(PICTURE)
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"job-0 is not finished after 0\.5 s"):
        job.wait(timeout=0.5, progress=False)
    server.faults = [say(503, "away", Retry_After="60")] * 100
    with pytest.raises(TimeoutError):
        job.wait(timeout=0.5, progress=False)
    assert time.monotonic() - began < 2
    server.faults = []
    with pytest.raises(JobError, match="job-0 is running: wait"):
        job.save(tmp_path / "clip.mp4")
    other = connection.submit(PICTURE)
    server.jobs[other.id]["state"] = "cancelled"
    ended = farm.as_completed([job, other], timeout=0.5)
    assert next(ended) is other
    with pytest.raises(TimeoutError, match=r"1 job still open.*job-0"):
        next(ended)


def test_a_server_that_fails_is_not_a_timeout(server: Videos, connection: farm.Connection) -> None:
    job = connection.submit(PICTURE)
    server.faults = [say(500, "a bug")]
    with pytest.raises(ServerError, match="a bug"):
        job.wait(timeout=5, progress=False)


def test_events_go_on_after_the_last_one_seen(server: Videos, connection: farm.Connection) -> None:
    job = connection.submit(PICTURE)
    server.looks_until_done = 10_000
    # A look at the job comes before each try.
    server.faults = [no_fault, cut_the_events(2), no_fault, say(503, "away"), no_fault]
    events = list(job.events())
    assert [(e.seq, e.event) for e in events] == [
        (1, "submitted"),
        (2, "start"),
        (3, "progress"),
        (4, "complete"),
    ]
    assert (events[2].at, events[2].data) == (3.5, {"n": 3})
    tries = [a.headers.get("last-event-id") for a in server.asked if a.path.endswith("events")]
    assert tries == [None, "2", "2", "4"]
    assert [event.seq for event in job.events(after=3)] == [4]


@pytest.mark.parametrize(
    "stream",
    [
        send(200, b"<html>", "text/html"),
        send(200, b"id: 1\nevent: x\ndata: {}\n\n", "text/event-stream"),
        send(200, b"id: 1\nevent: x\ndata: 7\n\n", "text/event-stream"),
        send(200, b"event: x\ndata: rubbish\n\n", "text/event-stream"),
        send(500, b"a bug"),
    ],
)
def test_events_that_are_none(server: Videos, connection: farm.Connection, stream: Any) -> None:
    job = connection.submit(PICTURE)
    server.faults = [no_fault, stream]
    with pytest.raises(ServerError, match=server.url):
        list(job.events())


def test_many(server: Videos, connection: farm.Connection) -> None:
    pictures = [picture_bytes(seed) for seed in range(10)]
    server.faults = [no_fault, say(429, "full", Retry_After="0.1")]
    jobs = connection.submit_many(iter(pictures), seed=3)
    sent = {asked.headers["idempotency-key"]: asked.picture for asked in server.asked}
    ids = {key: server.keys[key] for key in sent}
    assert [job.id for job in jobs] == [ids[k] for p in pictures for k in sent if sent[k] == p]
    with farm.connect(server.url) as other:
        jobs.append(other.submit(PICTURE))
        done = list(farm.as_completed([*jobs, jobs[0]]))
    assert sorted(job.id for job in done) == sorted(job.id for job in jobs)
    assert {job.status for job in done} == {"completed"}
    assert list(farm.as_completed([])) == []


def test_many_are_all_or_nothing(
    server: Videos, connection: farm.Connection, tmp_path: Path
) -> None:
    server.looks_until_done = 10_000
    with pytest.raises(RequestError, match=r"picture 2 \(.*gone.png\): there is no picture at"):
        connection.submit_many([PICTURE, PICTURE, tmp_path / "gone.png", PICTURE])
    assert {job["state"] for job in server.jobs.values()} <= {"cancelled"}
    server.faults = [say(429, "full", Retry_After="99")] * 9  # who waits for room goes home
    no_picture: Any = np.zeros(3)
    with pytest.raises(RequestError, match="picture 1:"):
        connection.submit_many([PICTURE, no_picture])


def test_the_server_of_the_environment(server: Videos, monkeypatch: pytest.MonkeyPatch) -> None:
    server.key = "right"
    monkeypatch.setenv("FARM_URL", server.url)
    monkeypatch.setenv("FARM_API_KEY", "right")
    jobs = [farm.submit(PICTURE), farm.submit(PICTURE)]
    assert jobs[0]._remote is jobs[1]._remote  # one to ask about both
    assert len(farm.submit_many([PICTURE])) == 1
    with farm.connect() as connection:
        assert connection.submit(PICTURE).wait(progress=False).status == "completed"
    with farm.connect(server.url) as connection, pytest.raises(AccessError):
        connection.submit(PICTURE)  # a URL that is given gets no key but its own
    jobs[0]._remote.close()


def test_a_tenant_is_the_keys_own(server: Videos, connection: farm.Connection) -> None:
    with pytest.raises(RequestError, match="tenant"):
        connection.submit(PICTURE, tenant="acme")
    assert not server.asked


def test_a_bar_is_for_who_can_see_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not in_notebook()
    shell = SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert in_notebook()
    shell.config = {"TerminalIPythonApp": {}}
    assert not in_notebook()


@pytest.mark.parametrize(
    ("state", "progress", "text"),
    [
        (
            "queued",
            {"queue_position": 3, "eta_s": 9.6},
            "waiting, 3 jobs before it, about 10 s left",
        ),
        ("queued", {"queue_position": 0}, "waiting, next"),
        ("paused", {}, "paused"),
        ("running", {"stage": "denoise", "eta_s": 0.2}, "denoising, step 2 of 5, about 1 s left"),
        ("failed", {"stage": "denoise"}, "failed"),
    ],
)
def test_where_a_job_is_in_words(state: str, progress: dict[str, Any], text: str) -> None:
    video = Video.model_validate(VIDEO | {"state": state, "stage": None, "eta_s": None} | progress)
    assert describe(video) == text


@pytest.mark.parametrize("shown", [True, None])
def test_the_bar(
    server: Videos,
    connection: farm.Connection,
    capsys: pytest.CaptureFixture[str],
    shown: bool | None,
) -> None:
    connection.submit(PICTURE).wait(progress=shown)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert ("100%" in printed.err and "completed" in printed.err) == bool(shown)
    assert bool(printed.err) == bool(shown)  # None: standard error is no terminal here
