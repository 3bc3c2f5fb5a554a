"""Limits on open jobs: the jobs of one tenant never keep another from submitting."""

import asyncio
from collections import Counter
from collections.abc import Callable
from itertools import count
from math import log
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.background import Background
from farm.coordinator.admission import Admission
from farm.errors import QueueFullError, SizeError
from farm.ingress.errors import api_error
from farm.model.job import Event, JobRecord, State
from farm.records.job_book import JobBook
from farm.records.open_jobs import work_of
from farm.settings import load_settings
from farm.store.local import LocalStore
from tests.model.test_job import job
from tests.model.test_plan import request

Ask = Callable[..., JobRecord]


def admission(folder: Path, **settings: Any) -> tuple[Admission, JobBook, Ask]:
    """Admission over a book of jobs, and a way to open one more."""

    async def ended(_: JobRecord) -> None: ...

    nothing: Callable[..., None] = lambda *_: None  # noqa: E731
    book = JobBook(LocalStore(str(folder)), Background(1), 1, nothing, ended, nothing)
    admission = Admission(load_settings(**settings), book)
    numbers = count()

    def ask(tenant: str, **changes: Any) -> JobRecord:
        new = job(id=f"job-{next(numbers)}", tenant=tenant, **changes)
        with admission.room_for(new):
            pass
        book.open[new.id] = new
        return new

    return admission, book, ask


def flood(ask: Ask, tenant: str, **changes: Any) -> int:
    """How many jobs a tenant gets in until it is refused."""
    for taken in count():
        try:
            ask(tenant, **changes)
        except QueueFullError:
            return taken
    raise AssertionError("unreachable")


def test_a_flood_leaves_every_other_tenant_its_share(tmp_path: Path) -> None:
    _, _, ask = admission(tmp_path, max_jobs=60)
    taken = [flood(ask, f"tenant-{n}") for n in range(5)]
    assert taken == [60, 30, 20, 15, 12]  # an equal part of 60 for each that came by then


def test_paused_jobs_fill_the_farm_for_nobody_else(tmp_path: Path) -> None:
    _, book, ask = admission(tmp_path, max_jobs=20)
    for _ in range(20):
        asleep = ask("sleeper")
        book.open[asleep.id] = asleep.model_copy(update={"state": State.PAUSED})
    with pytest.raises(QueueFullError, match="'sleeper' has 20 open jobs, of which 20 are paused"):
        ask("sleeper")
    assert flood(ask, "busy") == 20
    assert flood(ask, "late") == 6


def test_a_refusal_says_whose_limit_it_was(tmp_path: Path) -> None:
    _, book, ask = admission(tmp_path, max_jobs=8, max_jobs_per_tenant=6)
    assert flood(ask, "acme") == 6
    with pytest.raises(QueueFullError, match=r"tenant 'acme' has 6 open jobs, .* than 6") as own:
        ask("acme")
    assert flood(ask, "other") == 4
    with pytest.raises(
        QueueFullError, match=r"the farm has 10 open jobs, .* than 8; .* share is 4"
    ):
        ask("other")
    answer = api_error(own.value)
    assert (answer.status, answer.headers) == (429, {"Retry-After": "30"})
    del book.open["job-0"]
    assert flood(ask, "third") == 2


def test_the_wait_is_by_the_pace_of_whose_limit_it_is(tmp_path: Path) -> None:
    _, book, ask = admission(tmp_path, max_jobs_per_tenant=1)

    async def finish(tenant: str, pause_s: float) -> None:
        for number in range(4):
            await book.create(job(id=f"{tenant}-{number}", tenant=tenant))
            at = 1000.0 + number * pause_s
            await book.transition(f"{tenant}-{number}", Event.COMPLETE, finished_at=at)
            done = book._shown[f"{tenant}-{number}"]
            book._shown[done.id] = done.model_copy(update={"finished_at": at})

    asyncio.run(finish("slow", 40.0))
    asyncio.run(finish("fast", 0.1))
    for tenant, wait_s in (("slow", 40.0), ("fast", 1.0), ("new", 30.0)):
        ask(tenant)
        with pytest.raises(QueueFullError) as caught:
            ask(tenant)
        assert caught.value.retry_after_s == wait_s


def test_work_is_bounded_by_tenant(tmp_path: Path) -> None:
    small = work_of(request())
    huge = request(num_inference_steps=1000, num_frames=1024, num_videos=1000)
    admission_, book, ask = admission(tmp_path, max_work=10 * small)
    words = f"1000 x 64 x 48 x 1024 x 1000 = {work_of(huge):,} is more work than .* {10 * small:,}"
    with pytest.raises(SizeError, match=words):
        ask("acme", request=huge)
    with pytest.raises(SizeError):
        admission_.check_work(huge)
    assert flood(ask, "acme") == 10
    with pytest.raises(
        QueueFullError, match=rf"'acme' has {10 * small:,} .* limit of {10 * small:,}"
    ):
        ask("acme")
    assert flood(ask, "other", request=request(num_videos=5)) == 2
    del book.open["job-1"]
    assert flood(ask, "acme") == 1


def test_submits_at_once_do_not_pass_the_limit_together(tmp_path: Path) -> None:
    limits, book, _ = admission(tmp_path, max_jobs_per_tenant=3)
    taken: Counter[str] = Counter()

    async def submit(number: int) -> None:
        new = job(id=f"job-{number}", tenant="acme")
        try:
            with limits.room_for(new):
                await asyncio.sleep(0.01)  # while it is written
                book.open[new.id] = new
            taken["in"] += 1
        except QueueFullError:
            taken["refused"] += 1

    async def all_of_them() -> None:
        await asyncio.gather(*map(submit, range(10)))

    asyncio.run(all_of_them())
    assert taken == {"in": 3, "refused": 7}
    asyncio.run(submit(0))  # one that is open already is no other


STEPS = st.lists(
    st.tuples(st.sampled_from("abcdef"), st.sampled_from(["ask", "ask", "pause", "end"])),
    max_size=150,
)


@given(STEPS, st.integers(1, 20))
def test_nobody_below_its_share_is_refused_and_all_is_bounded(
    steps: list[tuple[str, str]], most: int
) -> None:
    with TemporaryDirectory() as folder:
        _, book, ask = admission(Path(folder), max_jobs=most)
        for tenant, what in steps:
            own = [each for each in book.open.values() if each.tenant == tenant]
            tenants = {each.tenant for each in book.open.values()} | {tenant}
            if what == "ask":
                try:
                    ask(tenant)
                except QueueFullError:
                    assert len(own) >= max(1, most // len(tenants))
            elif own and what == "pause":
                book.open[own[0].id] = own[0].model_copy(update={"state": State.PAUSED})
            elif own:
                del book.open[own[0].id]
            expected = Counter(each.tenant for each in book.open.values())
            assert {name: t.jobs for name, t in book.open.tallies.items()} == expected
            assert max(expected.values(), default=0) <= most
        at_work = sum(each.state is not State.PAUSED for each in book.open.values())
        assert at_work <= most * (1 + log(6)) + 6
