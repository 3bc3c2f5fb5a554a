"""Traces from a request to its tasks, received by a real server; and what does without one."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from farm.coordinator.coordinator import Coordinator
from farm.doctor.check import Context, Status
from farm.doctor.installation import traces
from farm.ingress.app import make_app
from farm.model.job import Submission
from farm.settings import load_settings
from farm.tracing import UNTRACED, Span, SpanContext, Tracer, child_of, open_tracer, span_of_job
from tests.support.asgi import client
from tests.support.collector import Collector, collector
from tests.support.farm_jobs import picture_bytes
from tests.support.inline_farm import coordinator, hang_after, inline  # noqa: F401

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
FORM = {"size": "32x16", "num_frames": "2", "steps": "4", "model": "nano"}
STAGES = ("encode", "denoise", "decode", "mux")

pytestmark = pytest.mark.usefixtures("inline")


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    with collector() as there:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", there.url)
        yield there


@pytest.fixture
def tracer(there: Collector) -> Iterator[Tracer]:
    with opened(there.url) as tracer:
        yield tracer


@contextmanager
def opened(url: str) -> Iterator[Tracer]:
    """A tracer whose thread ends with the context."""
    tracer: Any = open_tracer("svd-farm", url)
    try:
        yield tracer
    finally:
        tracer._processor.span_exporter.shutdown()  # it no longer tries again
        tracer._processor.shutdown()


async def ended(one: Coordinator, job: str) -> str:
    while (view := await one.show(job)).job.state.is_open:
        await asyncio.sleep(0.01)
    return view.job.state


def test_one_trace_from_the_callers_span_to_the_tasks(
    tmp_path: Path, there: Collector, tracer: Tracer
) -> None:
    async def test() -> str:
        async with coordinator(tmp_path, tracer=tracer) as one:
            app = make_app(one, load_settings(store=str(tmp_path)), tracer=tracer)
            files = {"input_reference": ("a.png", picture_bytes())}
            headers = {"traceparent": f"00-{TRACE}-{SPAN}-01", "X-Request-ID": "r-1"}
            async with client(app) as http:
                made = await http.post("/v1/videos", files=files, data=FORM, headers=headers)
            job: str = made.json()["id"]
            assert await ended(one, job) == "completed"
            return job

    job = asyncio.run(test())
    spans = there.of(TRACE, "POST /v1/videos", "job", *STAGES)
    (request,), (of_job,) = spans["POST /v1/videos"], spans["job"]
    assert (request.parent, request.kind) == (SPAN, 2)  # of a server
    assert request.attributes["http.response.status_code"] == 200
    assert request.attributes["request_id"] == of_job.attributes["request_id"] == "r-1"
    assert (of_job.parent, of_job.attributes["job"]) == (request.span, job)
    assert of_job.attributes["state"] == "completed"
    tasks = [task for stage in STAGES for task in spans[stage]]
    assert len(spans["denoise"]) == 2
    for task in tasks:
        assert (task.parent, task.attributes["job"]) == (of_job.span, job)
        assert {"clip", "worker", "attempt", "stage", "task"} <= task.attributes.keys()
        assert task.seconds <= of_job.seconds
    assert len({span.span for span in (request, of_job, *tasks)}) == len(tasks) + 2


def test_a_restarted_coordinator_goes_on_with_the_trace(
    tmp_path: Path, there: Collector, tracer: Tracer
) -> None:
    async def test() -> None:
        async with coordinator(tmp_path, tracer=tracer) as one:
            await hang_after(one, 2)
            await one.submit(Submission(id="kept"), picture_bytes())
            while (await one.show("kept")).progress.step < 2:
                await asyncio.sleep(0.01)
        async with coordinator(tmp_path, tracer=tracer) as another:
            assert await ended(another, "kept") == "completed"

    asyncio.run(test())
    root = span_of_job("kept", None)  # nobody's span was above it
    spans = there.of(root.trace, "job", *STAGES)
    (job,) = spans["job"]
    assert (job.span, job.parent) == (root.span, "")
    before_and_after = {task.attributes["attempt"].split("-")[0] for task in spans["denoise"]}
    assert before_and_after == {"1", "2"}
    assert {task.parent for task in spans["denoise"]} == {root.span}


def span(**changes: Any) -> Span:
    return Span(**{"name": "s", "parent": None, "began": 1.0, "ended": 2.0, **changes})


def test_a_trace_that_nobody_wants_is_not_exported(there: Collector, tracer: Tracer) -> None:
    tracer.export(span(context=SpanContext("1" * 32, SPAN, sampled=False)))
    tracer.export(span(context=SpanContext("2" * 32, SPAN), error="StoppedError", ended=0.5))
    (found,) = there.of("2" * 32, "s")["s"]
    assert (found.error, found.seconds, found.service) == ("StoppedError", 0.0, "svd-farm")
    assert [each.trace for each in there.spans] == ["2" * 32]


@pytest.mark.parametrize("answers", [False, True])
def test_a_collector_that_is_down_delays_nothing(
    answers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it refuses connections or answers 503: spans are dropped once the queue is full."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "1")
    with collector(503) as there:
        url = there.url if answers else "http://127.0.0.1:9"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        with opened(url) as tracer:
            began = time.monotonic()
            for _ in range(5000):
                tracer.export(span(context=child_of(None)))
            assert time.monotonic() - began < 3


def test_without_an_endpoint_nothing_is_loaded() -> None:
    code = "import sys, farm.tracing as t; t.open_tracer('x', '')"
    code += "; print('opentelemetry' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert open_tracer("svd-farm", "") is UNTRACED


def test_without_the_extra_there_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delitem(sys.modules, "farm.tracing.otel", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    assert open_tracer("svd-farm", "http://collector:4318") is UNTRACED
    assert "pip install 'svd-render-farm[tracing]'" in caplog.text


def test_the_doctor_says_whether_traces_are_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    def found() -> tuple[Status, str]:
        (finding,) = traces(Context(None))
        return finding.status, finding.text + finding.advice

    assert found()[0] is Status.OK
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://me:hunter2@collector:4318")
    status, text = found()
    assert (status, "http://***@collector:4318" in text) == (Status.OK, True)
    monkeypatch.setattr("farm.doctor.installation._version", lambda _: None)
    status, text = found()
    assert (status, "[tracing]" in text) == (Status.WARNING, True)


def test_a_header_is_passed_on_where_nothing_is_exported(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path, working=False) as one:
            app = make_app(one, load_settings(store=str(tmp_path)))
            files = {"input_reference": ("a.png", picture_bytes())}
            for header, kept in ((f"00-{TRACE}-{SPAN}-01",) * 2, ("nonsense", None)):
                async with client(app) as http:
                    made: httpx2.Response = await http.post(
                        "/v1/videos",
                        files=files,
                        data={**FORM, "seed": str(len(header))},
                        headers={"traceparent": header},
                    )
                assert (await one.show(made.json()["id"])).job.traceparent == kept

    asyncio.run(test())
