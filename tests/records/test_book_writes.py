"""What the book of jobs writes, in which order, and whom it tells."""

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from farm.errors import JobError, StoreError
from farm.model.job import Event, Opened, State
from farm.records import job_book
from farm.store import retry
from farm.store.keys import events_prefix, job_key, open_key, tenant_key, use_key
from farm.store.local import LocalStore
from tests.model.test_job import job
from tests.model.test_plan import request
from tests.support.booked import Booked, with_book


class Slow(LocalStore):
    """A folder, in which a record is written only once `go` is set."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self.go = threading.Event()
        self.go.set()
        self.written: list[str] = []

    def put(self, key: str, *arguments: Any, **conditions: Any) -> str:
        if key.startswith("jobs/"):
            assert self.go.wait(30)
            self.written.append(key)
        return super().put(key, *arguments, **conditions)


class Refusing(LocalStore):
    """A folder that fails the next writes or deletions of some keys, one by one."""

    refused: tuple[str, ...] = ()

    def _pass(self, key: str) -> None:
        if key in self.refused:
            left = list(self.refused)
            left.remove(key)
            self.refused = tuple(left)
            raise StoreError(f"{key}: no answer")

    def put(self, key: str, *arguments: Any, **conditions: Any) -> str:
        self._pass(key)
        return super().put(key, *arguments, **conditions)

    def delete(self, key: str) -> None:
        self._pass(key)
        super().delete(key)


@pytest.fixture(autouse=True)
def no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "RETRY_S", 0.01)


def test_a_new_job_is_in_the_store_and_its_indexes(tmp_path: Path) -> None:
    async def test(booked: Booked) -> None:
        made = await booked.create("a", tenant="acme")
        assert made.fence == 7
        assert booked.stored("a") == made == booked.book.open["a"] == await booked.book.read("a")
        entry = booked.store.get(open_key("a"))
        assert entry is not None
        opened = Opened.model_validate_json(entry.data)
        assert (opened.job, opened.tenant) == ("a", "acme")
        for key in (tenant_key("acme", "a"), use_key(request().picture, "a")):
            found = booked.store.get(key)
            assert found is not None
            assert found.data == b""
        assert booked.changed == ["a"]
        await booked.book.logs.flush("a")
        (logged,) = await booked.book.logs.entries("a", 0)
        assert (logged.event, logged.data) == ("submitted", {"tenant": "acme"})

    with_book(tmp_path, test, fence=7)


def test_events_are_dated_by_the_books_clock(tmp_path: Path) -> None:
    async def test(booked: Booked) -> None:
        await booked.create("a")
        await booked.book.logs.flush("a")
        (logged,) = await booked.book.logs.entries("a", 0)
        assert logged.at == 1000.0

    with_book(tmp_path, test, wall=lambda: 1000.0)


def test_the_same_job_again_is_the_one_that_is_there(tmp_path: Path) -> None:
    async def test(booked: Booked) -> None:
        first = await booked.create("a")
        assert await booked.book.create(job(id="a", created_at=999.0)) == (first, False)
        assert list(booked.book.open) == ["a"]
        for other in ({"request": request(seed=1)}, {"tenant": "acme"}):
            with pytest.raises(JobError, match="a is another job: give a new id"):
                await booked.book.create(job(id="a", **other))
        assert booked.stored("a") == first

    with_book(tmp_path, test)


def test_a_finished_job_that_is_sent_again_is_not_opened_again(tmp_path: Path) -> None:
    async def test(booked: Booked) -> None:
        done = booked.put("a", State.COMPLETED)
        assert await booked.book.create(job(id="a")) == (done, False)
        assert not booked.book.open
        assert not booked.store.exists(open_key("a"))
        assert booked.changed == []

    with_book(tmp_path, test)


def test_an_event_is_stored_and_logged_with_what_came_of_it(tmp_path: Path) -> None:
    async def test(booked: Booked) -> None:
        await booked.create("a")
        booked.book.update_in_memory("a", priority=90)
        stored = booked.stored("a")
        assert stored is not None
        assert stored.priority == 50  # until its next event
        paused = await booked.book.transition("a", Event.PAUSE)
        assert (paused.state, paused.priority, paused.fence) == (State.PAUSED, 90, 7)
        assert booked.stored("a") == paused == booked.book.open["a"]
        failed = await booked.book.transition("a", Event.FAIL, error="it broke")
        assert (failed.error, failed.state) == ("it broke", State.FAILED)
        assert failed.finished_at == pytest.approx(time.time(), abs=60)
        entries = await booked.book.logs.entries("a", 0)
        assert [(entry.event, entry.data) for entry in entries] == [
            ("submitted", {"tenant": "default"}),
            ("pause", {"state": "paused"}),
            ("fail", {"state": "failed", "error": "it broke"}),
        ]

    with_book(tmp_path, test, fence=7)


def test_only_open_jobs_have_events(tmp_path: Path) -> None:
    async def test(booked: Booked) -> None:
        await booked.create("a")
        await booked.book.transition("a", Event.COMPLETE)
        for name in ("a", "nobody"):
            with pytest.raises(JobError, match=f"{name} is finished, or .* it cannot pause"):
                booked.book.transition(name, Event.PAUSE)
        await booked.create("b")
        with pytest.raises(JobError, match="b is queued: it cannot resume"):
            booked.book.transition("b", Event.RESUME)

    with_book(tmp_path, test)


def test_readers_see_a_change_once_it_is_stored(tmp_path: Path) -> None:
    store = Slow(tmp_path)

    async def test(booked: Booked) -> None:
        before = await booked.create("a")
        store.go.clear()
        task = booked.book.transition("a", Event.PAUSE)
        await asyncio.sleep(0.05)
        assert await booked.book.read("a") == before
        assert booked.changed == ["a"]
        store.go.set()
        assert await task == await booked.book.read("a") != before
        assert booked.changed == ["a", "a"]

    with_book(store, test)


def test_what_is_stored_already_is_not_written_again(tmp_path: Path) -> None:
    store = Slow(tmp_path)

    async def test(booked: Booked) -> None:
        made = await booked.create("a")
        assert await booked.book.save_in_background("a") == made
        tasks = [booked.book.transition("a", event) for event in (Event.START, Event.PAUSE)]
        states = {(await task).state for task in tasks}
        assert states == {State.PAUSED}  # one write for both
        assert store.written == [job_key("a")] * 2
        done = await booked.book.transition("a", Event.COMPLETE)
        assert await booked.book.save_in_background("a") == done

    with_book(store, test)


def test_a_record_is_written_until_the_store_takes_it(tmp_path: Path) -> None:
    store = Refusing(str(tmp_path))

    async def test(booked: Booked) -> None:
        await booked.create("a")
        store.refused = (job_key("a"),) * 2
        assert await booked.book.transition("a", Event.PAUSE) == booked.stored("a")
        assert store.refused == ()

    with_book(store, test)


def test_an_end_is_passed_on_before_the_job_leaves_the_index(tmp_path: Path) -> None:
    async def test(booked: Booked) -> None:
        await booked.create("a")
        booked.trouble = [StoreError("no answer")]
        done = await booked.book.transition("a", Event.COMPLETE)
        assert booked.ended == [done, done]  # again, since the first time failed
        assert not booked.book.open
        assert not booked.store.exists(open_key("a"))
        assert await booked.book.read("a") == done
        assert booked.changed[-1] == "a"
        await booked.create("b")
        booked.trouble = [ValueError("a fault of ours")]
        with pytest.raises(ValueError, match="a fault of ours"):
            await booked.book.transition("b", Event.COMPLETE)
        assert booked.store.exists(open_key("b"))
        assert booked.failures.pop().startswith("JobBook._save failed")

    with_book(tmp_path, test)


def test_an_end_whose_index_entry_stays_is_an_end(tmp_path: Path) -> None:
    store = Refusing(str(tmp_path))

    async def test(booked: Booked) -> None:
        await booked.create("a")
        store.refused = (open_key("a"),)
        done = await booked.book.transition("a", Event.COMPLETE)
        assert await booked.book.read("a") == done
        assert store.exists(open_key("a"))

    with_book(store, test)
    after = with_book(store, lambda booked: booked.book.recover())
    assert [each.id for each in after.ended] == ["a"]
    assert not store.exists(open_key("a"))


def test_a_coordinator_that_was_superseded_is_told_and_writes_nothing(tmp_path: Path) -> None:
    async def test(booked: Booked) -> None:
        before = await booked.create("a")
        theirs = booked.put("a", State.PAUSED, fence=2)
        task = booked.book.transition("a", Event.START)
        async with asyncio.timeout(10):
            while not booked.superseded:  # which ends the process of a farm
                await asyncio.sleep(0.01)
        assert booked.stored("a") == theirs
        assert await booked.book.read("a") == before
        assert not task.done()

    with_book(tmp_path, test)


def test_a_deleted_job_leaves_nothing(tmp_path: Path) -> None:
    async def test(booked: Booked) -> None:
        for name in ("a", "b"):
            await booked.create(name, tenant="acme")
            await booked.book.transition(name, Event.COMPLETE)
        await booked.book.tenants.complete()
        assert await booked.book.ids("", 9) == ["a", "b"]
        assert await booked.book.ids_of("acme", "", 9, False) == ["a", "b"]
        assert len(await booked.book.read_of("acme", ["a", "b"])) == 2
        booked.changed.clear()
        await booked.book.delete("a")
        assert booked.changed == ["a"]
        assert (booked.stored("a"), await booked.book.read("a")) == (None, None)
        assert not list(booked.store.list(events_prefix("a")))
        assert list(booked.store.list(events_prefix("b")))
        assert not booked.store.exists(tenant_key("acme", "a"))
        assert await booked.book.ids("", 9) == ["b"]
        assert await booked.book.ids_of("acme", "", 9, False) == ["b"]
        await booked.book.delete("a")  # again
        again, new = await booked.book.create(job(id="a", tenant="other"))
        assert (again.tenant, new) == ("other", True)
        assert [each.id for each in await booked.book.read_of("other", ["a", "b"])] == ["a"]

    with_book(tmp_path, test)


def test_few_records_are_written_at_once_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_book, "WRITERS", 2)
    store = Slow(tmp_path)

    async def test(booked: Booked) -> None:
        names = [f"job-{number}" for number in range(5)]
        for name in names:
            await booked.create(name)

    async def restarted(booked: Booked) -> None:
        assert len(await booked.book.recover()) == 5
        store.written.clear()
        store.go.clear()
        saving = asyncio.create_task(booked.book.save_recovered())
        await asyncio.sleep(0.05)
        assert sum(lock.locked() for lock in booked.book._locks.values()) == 2
        ending = booked.book.transition("job-4", Event.CANCEL)
        store.go.set()
        await asyncio.gather(saving, ending)
        assert sorted(set(store.written)) == [job_key(f"job-{number}") for number in range(5)]

    with_book(store, test)
    with_book(store, restarted, fence=2)


def test_a_job_is_not_deleted_while_it_is_created_and_another_is(tmp_path: Path) -> None:
    store = Slow(tmp_path)

    async def test(booked: Booked) -> None:
        await booked.create("b")
        store.go.clear()
        creating = asyncio.create_task(booked.create("a"))
        await asyncio.sleep(0.05)
        deleting = asyncio.create_task(booked.book.delete("a"))
        await asyncio.wait_for(booked.book.delete("b"), 5)
        assert not deleting.done()
        store.go.set()
        await asyncio.gather(creating, deleting)
        assert booked.stored("a") is None
        assert not booked.book._locks

    with_book(store, test)


def test_a_job_is_not_created_while_it_is_deleted_and_another_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Slow(tmp_path)
    go = threading.Event()
    delete = store.delete

    def held(key: str) -> None:
        assert go.wait(30)
        delete(key)

    async def test(booked: Booked) -> None:
        await booked.create("a")
        monkeypatch.setattr(store, "delete", held)
        deleting = asyncio.create_task(booked.book.delete("a"))
        await asyncio.sleep(0.05)
        creating = asyncio.create_task(booked.book.create(job(id="a", tenant="other")))
        await asyncio.wait_for(booked.create("b"), 5)
        assert not creating.done()
        go.set()
        await asyncio.gather(deleting, creating)
        stored = booked.stored("a")
        assert stored is not None
        assert stored.tenant == "other"

    with_book(store, test)


@pytest.mark.parametrize("logged", [True, False])
@pytest.mark.parametrize("state", [State.COMPLETED, State.FAILED, State.CANCELLED])
def test_an_end_that_was_stored_but_not_logged_is_logged_once(
    tmp_path: Path, state: State, logged: bool
) -> None:
    """Its coordinator was killed right after it had stored the end."""
    events = {State.COMPLETED: Event.COMPLETE, State.FAILED: Event.FAIL}
    error = "it broke" if state is State.FAILED else None

    async def killed(booked: Booked) -> None:
        booked.put("a", state, error=error)
        booked.store.put(open_key("a"), b"")
        if logged:
            await booked.book.logs.add_end(job(state, id="a", error=error))

    async def restarted(booked: Booked) -> None:
        await booked.book.recover()
        (entry,) = await booked.book.logs.entries("a", 0)
        assert entry.event == events.get(state, Event.STOPPED)
        assert entry.data == {"state": state} | ({"error": error} if error else {})
        assert not booked.store.exists(open_key("a"))

    store = LocalStore(str(tmp_path))
    with_book(store, killed)
    with_book(store, restarted, fence=2)
