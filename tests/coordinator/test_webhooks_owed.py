"""Undelivered webhooks: kept in the store, retried for long, and not all sent at once."""

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import farm.coordinator.webhooks
import farm.store.retry
from farm.background import Background
from farm.clock import Clock, FarmClock
from farm.coordinator.webhooks import WebhookEvent, Webhooks, event_of
from farm.errors import OutboundError, StoreError
from farm.metrics.meter import Unmetered
from farm.model.job import Event, JobRecord, State
from farm.records.job_book import JobBook
from farm.settings import load_settings
from farm.store import Store, open_store
from farm.store.keys import WEBHOOKS, job_key, open_key
from tests.model.test_job import job
from tests.support.core import ManualClock
from tests.support.receiver import SECRET, ended


def left(store: Store) -> list[str]:
    return list(store.list(WEBHOOKS))


def owing(
    store: Store,
    *jobs: JobRecord,
    seconds: float = 0.0,
    until: Any = None,
    clock: Clock | None = None,
) -> Webhooks:
    """Add the events of jobs, and deliver for some seconds, or until it is so."""

    async def run() -> Webhooks:
        settings = load_settings(webhook_secret=SECRET)
        webhooks = Webhooks(settings, store, Background(4), clock or FarmClock(), Unmetered())
        for each in jobs:
            await webhooks.add(each)
        loop = asyncio.create_task(webhooks.deliver())
        end = time.monotonic() + (seconds or 20)
        while time.monotonic() < end and not (until and until()):
            await asyncio.sleep(0.01)
        assert until is None or until()
        loop.cancel()
        return webhooks

    return asyncio.run(run())


def test_pauses_grow_and_a_day_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pauses: list[float] = []
    real = asyncio.sleep
    clock = ManualClock()
    clock.time = time.time()

    async def sleep(seconds: float) -> None:
        if seconds not in (0, 0.01):
            pauses.append(seconds)
            clock.time += seconds
        await real(0)

    async def refuse(*_: Any) -> int:
        raise OutboundError("receiver.example: down")

    store = open_store(tmp_path.as_uri())
    monkeypatch.setattr(farm.coordinator.webhooks, "post", refuse)
    monkeypatch.setattr(asyncio, "sleep", sleep)

    def given_up() -> bool:
        return len(caplog.records) == 1 and not left(store)

    with caplog.at_level(logging.ERROR, "farm"):
        owing(store, ended(), until=given_up, clock=clock)
    assert "job-1: its webhook is given up: receiver.example: down" in caplog.text
    assert 24 * 3600 < sum(pauses) < 24.5 * 3600
    for number, pause in enumerate(pauses):
        most = min(600, 2**number)
        assert most / 2 <= pause <= most


def test_a_receiver_that_hangs_leaves_room_for_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tmp_path.as_uri())
    at_once: dict[str, int] = {}
    most: dict[str, int] = {}
    received: list[str] = []

    async def hang(url: str, *_: Any) -> int:
        host = url.split("/")[2]
        at_once[host] = at_once.get(host, 0) + 1
        most[host] = max(most.get(host, 0), at_once[host])
        if host.startswith("hangs"):
            await asyncio.sleep(60)
        at_once[host] -= 1
        received.append(host)
        return 204

    monkeypatch.setattr(farm.coordinator.webhooks, "post", hang)
    jobs = [ended(id=f"job-{n}") for n in range(40)]
    jobs = [each.model_copy(update={"webhook_url": "https://hangs.example/"}) for each in jobs]
    quick = ended(id="job-quick")
    owing(store, *jobs, quick, until=lambda: received and len(left(store)) == 40)
    assert received == ["receiver.example"]
    assert most == {"hangs.example": farm.coordinator.webhooks.PER_HOST, "receiver.example": 1}
    assert len(left(store)) == 40  # none is lost, none told twice
    received.clear()
    monkeypatch.setattr(farm.coordinator.webhooks, "post", lambda url, *_: answer(url))

    async def answer(url: str) -> int:
        received.append(url)
        return 200

    store.put(f"{WEBHOOKS}broken", b"nonsense")
    owing(store, until=lambda: left(store) == [f"{WEBHOOKS}broken"])
    assert len(received) == 40


def test_an_end_that_was_written_is_told_though_the_coordinator_died(tmp_path: Path) -> None:
    """Between its record and all that follows; and where the store fails for a moment."""
    store = open_store(tmp_path.as_uri())
    done, silent = ended(), job(State.FAILED, id="job-2", finished_at=1.0)
    for each in (done, silent):
        store.put(job_key(each.id), each.model_dump_json().encode())
        store.put(open_key(each.id), b"")

    async def recover(ended: Callable[[JobRecord], Any]) -> list[JobRecord]:
        book = JobBook(store, Background(4), 1, lambda _: None, ended, lambda: None)
        return await book.recover()

    async def fail(_: JobRecord) -> None:
        raise StoreError("down")

    with pytest.raises(StoreError, match="down"):
        asyncio.run(recover(fail))
    assert store.exists(open_key(done.id))  # for the next start

    async def owe() -> list[JobRecord]:
        webhooks = Webhooks(
            load_settings(webhook_secret=SECRET), store, Background(4), FarmClock(), Unmetered()
        )
        return await recover(webhooks.add)

    assert asyncio.run(owe()) == []
    (key,) = left(store)
    stored = store.get(key)
    assert stored is not None
    assert WebhookEvent.model_validate_json(stored.data) == event_of(done)
    assert not store.exists(open_key(done.id)) | store.exists(open_key(silent.id))


def test_an_end_is_passed_on_before_the_index_forgets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tmp_path.as_uri())
    monkeypatch.setattr(farm.store.retry, "RETRY_S", 0.01)
    seen: list[bool] = []

    async def passed_on(ended_job: JobRecord) -> None:
        stored = store.get(job_key(ended_job.id))
        assert stored is not None
        assert JobRecord.model_validate_json(stored.data).state is State.COMPLETED
        seen.append(store.exists(open_key(ended_job.id)))
        if len(seen) == 1:
            raise StoreError("down for a moment")

    async def run() -> None:
        book = JobBook(store, Background(4), 1, lambda _: None, passed_on, lambda: None)
        await book.create(job())
        await book.transition("job-1", Event.COMPLETE)

    asyncio.run(run())
    assert seen == [True, True]
    assert not store.exists(open_key("job-1"))
