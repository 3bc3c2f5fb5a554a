"""A blocking facade over FarmApi, for programs that do not use asyncio."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from functools import cache, update_wrapper
from typing import Any, Concatenate, ParamSpec, TypeVar

from farm.errors import JobError, StoreError
from farm.model.farm_api import FarmApi, ReadOnlyFarm
from farm.model.job import LOG_PAGE, ClipResult, JobView, LogEntry
from farm.store import Store

P = ParamSpec("P")
R = TypeVar("R")


def _blocking(
    method: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate["FarmReader", P], R]:
    """Make a blocking method from a method of FarmApi."""
    name = method.__name__

    def call(self: "FarmReader", /, *arguments: P.args, **keywords: P.kwargs) -> R:
        work: Coroutine[Any, Any, R] = getattr(self._api, name)(*arguments, **keywords)
        answer = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return answer.result()
        except BaseException:
            answer.cancel()  # on Ctrl-C, for example, nobody waits for it any more
            raise

    update_wrapper(call, method)
    return call


class FarmReader:
    """ReadOnlyFarm with blocking methods."""

    def __init__(self, api: ReadOnlyFarm, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """loop: the event loop that runs `api`; by default a background loop of this process."""
        self._api, self._loop = api, loop or _background_loop()

    show = _blocking(ReadOnlyFarm.show)
    jobs = _blocking(ReadOnlyFarm.jobs)
    usage = _blocking(ReadOnlyFarm.usage)
    garbage = _blocking(ReadOnlyFarm.garbage)
    _page = _blocking(ReadOnlyFarm.events)

    def events(self, job: str, after: int = 0) -> list[LogEntry]:
        """All entries of a job's event log after number `after`."""
        entries: list[LogEntry] = []
        while True:
            page = self._page(job, after)
            entries += page
            if len(page) < LOG_PAGE:
                return entries
            after = page[-1].seq


class Farm(FarmReader):
    """FarmApi with blocking methods, and an iterator built on them."""

    def __init__(self, api: FarmApi, loop: asyncio.AbstractEventLoop | None = None) -> None:
        super().__init__(api, loop)

    ready = _blocking(FarmApi.ready)
    describe = _blocking(FarmApi.describe)
    submit = _blocking(FarmApi.submit)
    views = _blocking(FarmApi.views)
    cancel = _blocking(FarmApi.cancel)
    pause = _blocking(FarmApi.pause)
    resume = _blocking(FarmApi.resume)
    set_priority = _blocking(FarmApi.set_priority)
    delete = _blocking(FarmApi.delete)
    collect_garbage = _blocking(FarmApi.collect_garbage)
    drain = _blocking(FarmApi.drain)
    status = _blocking(FarmApi.status)
    store = _blocking(FarmApi.store)
    _changes = _blocking(FarmApi.watch)

    def watch(self, jobs: Sequence[str], tick_s: float = 10.0) -> Iterator[list[JobView]]:
        """Yield jobs as they change, until all are finished; an empty list after `tick_s` seconds.

        Jobs that are deleted meanwhile are dropped.
        """
        version, left = -1, dict.fromkeys(jobs)
        while left:
            version, views = self._changes(list(left), version, tick_s)
            for view in views:
                if not view.job.state.is_open:
                    left.pop(view.job.id, None)
            yield views
            if not views:
                job = next(iter(left))  # deletions are not published: check one job at a time
                del left[job]
                with suppress(JobError):
                    self.show(job)
                    left[job] = None


def fetch(store: Store, result: ClipResult) -> tuple[bytes, bytes]:
    """Read the video and the thumbnail of a finished clip. Raises StoreError if one is gone."""
    return read_artifact(store, result.video), read_artifact(store, result.thumbnail)


def read_artifact(store: Store, key: str) -> bytes:
    """Read a file of a finished clip. Raises StoreError if it is gone."""
    stored = store.get(key)
    if stored is None:
        raise StoreError(f"{store.where(key)} is gone: submit with force to render again")
    return stored.data


@cache
def _background_loop() -> asyncio.AbstractEventLoop:
    """The event loop of all farms in this process. Its thread is a daemon, so it delays no exit."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="farm", daemon=True).start()
    return loop
