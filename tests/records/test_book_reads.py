"""What the book of jobs finds: in memory, in the store, and what an earlier coordinator left."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from farm.errors import ConflictError
from farm.model.job import Event, JobRecord, State
from farm.records import job_book
from farm.records.salvage import read_job
from farm.store import Stored
from farm.store.keys import JOBS, OPEN, job_key, open_key
from farm.store.local import LocalStore
from svd_engine import NUMERICS
from tests.model.test_job import job
from tests.model.test_plan import request
from tests.support.booked import Booked, with_book


class Counting(LocalStore):
    """A folder that remembers what was read; `late` are keys that a listing does not have yet."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self.asked: list[str] = []

    def get(self, key: str) -> Stored | None:
        self.asked.append(key)
        return super().get(key)

    def read(self, *names: str) -> int:
        """How often the records of some jobs were read since the last time."""
        count = sum(self.asked.count(job_key(name)) for name in names)
        self.asked.clear()
        return count


def ids(jobs: list[JobRecord]) -> list[str]:
    return [each.id for each in jobs]


def test_a_job_is_read_from_memory_or_else_from_the_store(tmp_path: Path) -> None:
    store = Counting(tmp_path)

    async def test(booked: Booked) -> None:
        mine, theirs = await booked.create("a"), booked.put("b")
        store.read()
        assert await booked.book.read("a") == mine
        assert store.read("a") == 0
        assert await booked.book.read("b") == theirs
        assert store.read("b") == 1
        for name in ("nobody", "", "../a", "a\0"):
            assert await booked.book.read(name) is None, name
        assert ids(await booked.book.read_all(["b", "nobody", "a"])) == ["b", "a"]

    with_book(store, test)


def test_a_record_that_changes_while_it_is_repaired_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = ["conflict"]

    def raced(*arguments: Any) -> tuple[JobRecord, str] | None:
        if answers:
            raise ConflictError(answers.pop())
        return read_job(*arguments)

    async def test(booked: Booked) -> None:
        theirs = booked.put("b")
        monkeypatch.setattr(job_book, "read_job", raced)
        assert await booked.book.read("b") == theirs

    with_book(tmp_path, test)


def test_a_tenant_reads_its_own_jobs_and_anothers_once_at_most(tmp_path: Path) -> None:
    store = Counting(tmp_path)

    async def test(booked: Booked) -> None:
        for name, tenant in (("a", "acme"), ("b", "other"), ("c", "acme")):
            booked.put(name, tenant=tenant)
        for names in (["c", "a"], ["b", "c", "nobody"]):
            wanted = [name for name in names if name in "ac"]
            assert ids(await booked.book.read_of("acme", names)) == wanted
        assert store.read("b") == 1
        assert ids(await booked.book.read_of("acme", ["a", "b", "c"])) == ["a", "c"]
        assert store.read("b") == 0
        assert ids(await booked.book.read_of("other", ["a", "b", "c"])) == ["b"]
        assert store.read("b") == 1

    with_book(store, test)


def test_ids_come_in_pages_in_both_directions(tmp_path: Path) -> None:
    async def test(booked: Booked) -> None:
        for name in ("d", "b"):
            booked.put(name)
        await booked.create("a")
        booked.store.put(f"{JOBS}.DS_Store", b"")
        assert await booked.book.ids("", 9) == ["a", "b", "d"]
        await booked.create("c")
        assert await booked.book.ids("", 2) == ["a", "b"]
        assert await booked.book.ids("b", 9) == ["c", "d"]
        assert await booked.book.ids("", 3, newest_first=True) == ["d", "c", "b"]
        assert await booked.book.ids("b", 3, newest_first=True) == ["a"]

    with_book(tmp_path, test)


def test_a_job_made_while_the_store_is_listed_is_among_the_ids(tmp_path: Path) -> None:
    class Late(LocalStore):
        def list(self, prefix: str = "", after: str = "") -> list[str]:  # type: ignore[override]
            return [key for key in super().list(prefix, after) if key != job_key("b")]

    async def test(booked: Booked) -> None:
        await booked.create("a")
        await booked.create("b")
        assert await booked.book.ids("", 9) == ["a", "b"]

    with_book(Late(str(tmp_path)), test)


def test_a_tenants_ids_are_its_own_once_the_index_is_complete(tmp_path: Path) -> None:
    async def test(booked: Booked) -> None:
        for name, tenant in (("a", "acme"), ("b", "other"), ("c", "acme")):
            await booked.create(name, tenant=tenant)
        for newest_first, order in ((False, ["a", "b", "c"]), (True, ["c", "b", "a"])):
            assert await booked.book.ids_of("acme", "", 9, newest_first) == order
        assert await booked.book.ids_of("acme", "a", 1, False) == ["b"]
        await booked.book.tenants.complete()
        for newest_first, order in ((False, ["a", "c"]), (True, ["c", "a"])):
            assert await booked.book.ids_of("acme", "", 9, newest_first) == order
        assert await booked.book.ids_of("acme", "a", 9, False) == ["c"]
        assert await booked.book.ids_of("acme", "", 1, True) == ["c"]

    with_book(tmp_path, test)


def test_what_was_finished_lately_is_told_by_tenant(tmp_path: Path) -> None:
    async def test(booked: Booked) -> None:
        finished: dict[str, float] = {}
        for name, tenant in (("a", "acme"), ("b", "other"), ("c", "acme"), ("d", "acme")):
            await booked.create(name, tenant=tenant)
            done = await booked.book.transition(name, Event.COMPLETE)
            assert done.finished_at is not None
            finished[name] = done.finished_at
        await booked.create("open", tenant="acme")
        book = booked.book
        assert book.finish_times(9) == [finished[name] for name in "abcd"]
        assert book.finish_times(2) == [finished[name] for name in "cd"]
        assert book.finish_times(9, "acme") == [finished[name] for name in "acd"]
        assert book.finish_times(2, "acme") == [finished[name] for name in "cd"]
        assert book.finish_times(9, "nobody") == []

    with_book(tmp_path, test)


def test_only_the_latest_finished_jobs_stay_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_book, "CLOSED_KEPT", 2)
    store = Counting(tmp_path)

    async def test(booked: Booked) -> None:
        await booked.create("open")
        for name in "abcd":
            await booked.create(name)
            await booked.book.transition(name, Event.COMPLETE)
        assert booked.book._locks.keys() == {"open", "c", "d"}
        store.read()
        for name, reads in (("open", 0), ("a", 1), ("b", 1), ("c", 0), ("d", 0)):
            found = await booked.book.read(name)
            assert found is not None
            assert found.id == name
            assert store.read(name) == reads, name

    with_book(store, test)


def test_what_an_earlier_coordinator_left_open_is_taken_over(tmp_path: Path) -> None:
    async def test(booked: Booked) -> None:
        states = {"q": State.QUEUED, "r": State.RUNNING, "p": State.PAUSED, "c": State.CANCELLING}
        for name, state in states.items():
            booked.put(name, state, fence=3)
            booked.store.put(open_key(name), b"")
        booked.put("done", State.COMPLETED)
        for name in ("done", "never-written", ".DS_Store"):
            booked.store.put(f"{OPEN}{name}", b"")
        found = {each.id: each for each in await booked.book.recover()}
        assert {name: each.state for name, each in found.items()} == {
            "q": State.QUEUED,
            "r": State.QUEUED,
            "p": State.PAUSED,
            "c": State.CANCELLED,
        }
        assert {each.fence for each in found.values()} == {4}
        assert found["c"].finished_at == pytest.approx(time.time(), abs=60)
        assert found == dict(booked.book.open)
        assert ids(booked.ended) == ["done"]
        assert set(booked.store.list(OPEN)) >= {open_key(name) for name in states}
        for name in ("done", "never-written"):
            assert not booked.store.exists(open_key(name))
        kept = booked.stored("r")
        assert kept is not None
        assert (kept.state, kept.fence) == (State.RUNNING, 3)  # nothing is stored yet
        await booked.book.save_recovered()
        assert {name: booked.stored(name) for name in states} == found
        assert list(booked.book.open) == ["p", "q", "r"]
        await booked.book.logs.flush("r")
        (logged,) = await booked.book.logs.entries("r", 0)
        assert (logged.event, logged.data) == ("recover", {"state": "queued"})

    with_book(tmp_path, test, fence=4)


def test_a_job_of_this_numerics_is_taken_over_as_it_was_asked_for(tmp_path: Path) -> None:
    async def test(booked: Booked) -> None:
        for name, numerics in (("mine", NUMERICS), ("older", NUMERICS - 1)):
            booked.put(name, request=request(seed=4, numerics=numerics))
            booked.store.put(open_key(name), b"")
        for each in await booked.book.recover():
            assert each.request == request(seed=4)
        again, new = await booked.book.create(job(id="mine", request=request(seed=4)))
        assert (again.id, new) == ("mine", False)

    with_book(tmp_path, test)


def test_readers_of_a_job_that_is_gone_find_nothing(tmp_path: Path) -> None:
    async def test(booked: Booked) -> None:
        await booked.create("a")
        await booked.book.transition("a", Event.CANCEL)
        await booked.book.transition("a", Event.STOPPED)
        deleted = booked.book.delete("a")
        await asyncio.gather(deleted, booked.book.delete("nobody"))
        assert await booked.book.read_all(["a", "nobody"]) == []

    with_book(tmp_path, test)
