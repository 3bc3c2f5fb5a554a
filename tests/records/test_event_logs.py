"""Event logs: compacted, read in pages, and never delaying anything else."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import farm.records.event_logs
from farm.model.job import LOG_PAGE, LogEntry
from farm.records.event_logs import PARTS, EventLogs
from farm.store import Stored
from farm.store.keys import events_key, events_prefix
from farm.store.local import LocalStore
from tests.log_readers import answer_late, measure
from tests.support.inline_farm import replace_video

JOB = "job-1"


class Slow(LocalStore):
    """A folder that takes a while to read, and counts how often it is read."""

    wait_s = 0.0
    reads = 0

    def get(self, key: str) -> Stored | None:
        self.reads += 1
        time.sleep(self.wait_s)
        return super().get(key)


def run(folder: Path, work: Callable[[EventLogs, Slow], Awaitable[None]]) -> None:
    async def begin() -> None:
        store = Slow(str(folder))
        await work(EventLogs(store, lambda _: None), store)

    asyncio.run(begin())


def objects(store: LocalStore) -> list[str]:
    return list(store.list(events_prefix(JOB)))


async def grow(logs: EventLogs, flushes: int, job: str = JOB) -> None:
    for number in range(flushes):
        logs.add(job, "progress", {"seed": 0, "step": number})
        await logs.flush(job)


async def seqs(logs: EventLogs, after: int = 0) -> list[int]:
    return [entry.seq for entry in await logs.entries(JOB, after)]


def test_a_long_log_is_few_objects_and_whole(tmp_path: Path) -> None:
    async def work(logs: EventLogs, store: Slow) -> None:
        logs.begin(JOB)
        await grow(logs, 300)
        assert len(objects(store)) <= PARTS
        assert await seqs(logs) == list(range(1, 301))
        for after in (1, 31, 32, 33, 150, 299, 300):
            assert await seqs(logs, after) == list(range(after + 1, 301))
        await logs.close(JOB)
        assert len(objects(store)) == 1
        assert await seqs(logs) == list(range(1, 301))
        steps = [entry.data["step"] for entry in await logs.entries(JOB, 0)]
        assert steps == list(range(300))

    run(tmp_path, work)


def test_who_follows_a_job_does_not_read_the_store(tmp_path: Path) -> None:
    async def work(logs: EventLogs, store: Slow) -> None:
        logs.begin(JOB)
        await grow(logs, 10)
        store.reads = 0
        for after in range(11):
            assert await seqs(logs, after) == list(range(after + 1, 11))
        assert store.reads == 0

    run(tmp_path, work)


def test_a_new_coordinator_goes_on_with_a_log(tmp_path: Path) -> None:
    async def first(logs: EventLogs, _: Slow) -> None:
        logs.begin(JOB)
        await grow(logs, PARTS - 2)

    async def second(logs: EventLogs, store: Slow) -> None:
        await grow(logs, 20)
        assert await seqs(logs) == list(range(1, PARTS + 19))
        assert len(objects(store)) < PARTS

    run(tmp_path, first)
    run(tmp_path, second)


def test_an_old_log_of_many_objects_is_read_in_little_time(tmp_path: Path) -> None:
    """Half an hour, as earlier versions left it, over a store that takes 15 ms."""
    store = LocalStore(str(tmp_path))
    folder = tmp_path / events_prefix(JOB)
    folder.mkdir(parents=True)
    for seq in range(1, 1801):
        line = LogEntry(seq=seq, at=0.0, event="progress").model_dump_json()
        (tmp_path / events_key(JOB, seq)).write_text(line + "\n")

    async def work(logs: EventLogs, store: Slow) -> None:
        store.wait_s = 0.015
        began, after, found = time.monotonic(), 0, []
        while page := await logs.entries(JOB, after):
            found += [entry.seq for entry in page]
            assert len(page) <= LOG_PAGE + 16
            after = found[-1]
        assert found == list(range(1, 1801))
        assert time.monotonic() - began < 15  # 27 s one by one

    assert len(objects(store)) == 1800
    run(tmp_path, work)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=60), st.integers(2, 5), st.data())
def test_nothing_is_lost_told_twice_or_out_of_order(
    flushes: list[int], parts: int, data: st.DataObject
) -> None:
    """However it was compacted, and with objects that a compaction left behind."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(farm.records.event_logs, "PARTS", parts)
        patch.setattr(farm.records.event_logs, "FULL", 500)

        async def work(logs: EventLogs, store: Slow) -> None:
            logs.begin(JOB)
            total = 0
            for count in flushes:
                for _ in range(count):
                    total += 1
                    logs.add(JOB, "event", {"n": total})
                before = {key: store.get(key) for key in objects(store)}
                await logs.flush(JOB)
                if data.draw(st.booleans()):  # killed amid a compaction
                    for key, stored in before.items():
                        if stored and not store.exists(key):
                            store.put(key, stored.data)
            after = data.draw(st.integers(0, total))
            for reader in (logs, EventLogs(store, lambda _: None)):
                entries = await reader.entries(JOB, after)
                assert [entry.seq for entry in entries] == list(range(after + 1, total + 1))
                assert all(entry.data["n"] == entry.seq for entry in entries)

        run(Path(folder), work)


def test_a_log_that_is_read_while_it_is_compacted(tmp_path: Path) -> None:
    async def work(logs: EventLogs, store: Slow) -> None:
        logs.begin(JOB)
        store.wait_s = 0.001
        reader, go_on = EventLogs(store, lambda _: None), True

        async def read() -> None:
            while go_on:
                found = [entry.seq for entry in await reader.entries(JOB, 0)]
                assert found == list(range(1, len(found) + 1))

        reads = [asyncio.create_task(read()) for _ in range(3)]
        await grow(logs, 5 * PARTS)
        go_on = False
        await asyncio.gather(*reads)

    run(tmp_path, work)


def test_readers_hold_up_nobody_who_writes(tmp_path: Path) -> None:
    go = threading.Event()

    class Stuck(Slow):
        def get(self, key: str) -> Stored | None:
            go.wait(60)
            return super().get(key)

    async def work() -> None:
        store: Any = Stuck(str(tmp_path))
        writer = EventLogs(LocalStore(str(tmp_path)), lambda _: None)
        writer.begin(JOB)
        await grow(writer, 3)
        logs = EventLogs(store, lambda _: None)
        reads = [asyncio.create_task(logs.entries(JOB, 0)) for _ in range(64)]
        await asyncio.sleep(0.05)
        logs.begin("job-2")
        async with asyncio.timeout(10):
            await grow(logs, 3, "job-2")
        go.set()
        assert all(len(found) == 3 for found in await asyncio.gather(*reads))

    asyncio.run(work())


def test_readers_of_a_long_log_keep_no_submit_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """56 s was reported, where they shared threads with what is written."""
    replace_video(monkeypatch)
    answer_late(monkeypatch)
    _, beside, read = asyncio.run(measure(tmp_path, 8, 200))
    assert min(read) >= 200
    assert len(beside) > 1
    assert beside[-1] < 15
