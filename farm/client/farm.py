"""A farm for programs that are not asynchronous: each call waits for its answer."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from functools import cache, update_wrapper
from typing import Any, Concatenate, ParamSpec, TypeVar

from farm.errors import JobError, StoreError
from farm.model.farm_api import FarmApi
from farm.model.job import LOG_PAGE, ClipResult, JobView, LogEntry
from farm.store import Store

P = ParamSpec("P")
R = TypeVar("R")


def _blocking(
    method: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate["Farm", P], R]:
    """A method of FarmApi, called and waited for."""
    name = method.__name__

    def call(self: "Farm", /, *arguments: P.args, **keywords: P.kwargs) -> R:
        work: Coroutine[Any, Any, R] = getattr(self._api, name)(*arguments, **keywords)
        answer = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return answer.result()
        except BaseException:
            answer.cancel()  # Ctrl-C: nobody waits any more
            raise

    update_wrapper(call, method)
    return call


class Farm:
    """A farm: FarmApi without `await`, and what is easily made of it."""

    def __init__(self, api: FarmApi, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """loop: where `api` lives; None: a loop in the background of this process."""
        self._api, self._loop = api, loop or _background_loop()

    ready = _blocking(FarmApi.ready)
    describe = _blocking(FarmApi.describe)
    submit = _blocking(FarmApi.submit)
    show = _blocking(FarmApi.show)
    jobs = _blocking(FarmApi.jobs)
    views = _blocking(FarmApi.views)
    cancel = _blocking(FarmApi.cancel)
    pause = _blocking(FarmApi.pause)
    resume = _blocking(FarmApi.resume)
    set_priority = _blocking(FarmApi.set_priority)
    drain = _blocking(FarmApi.drain)
    status = _blocking(FarmApi.status)
    store = _blocking(FarmApi.store)
    _changes = _blocking(FarmApi.watch)
    _page = _blocking(FarmApi.events)

    def watch(self, jobs: Sequence[str], tick_s: float = 10.0) -> Iterator[list[JobView]]:
        """Yield the jobs as they change, until all are finished; an empty list every `tick_s`.

        A job that somebody deletes meanwhile is left out.
        """
        version, left = -1, dict.fromkeys(jobs)
        while left:
            version, views = self._changes(list(left), version, tick_s)
            for view in views:
                if not view.job.state.is_open:
                    left.pop(view.job.id, None)
            yield views
            if not views:
                job = next(iter(left))  # a deleted job makes no news: look at each in its turn
                del left[job]
                with suppress(JobError):
                    self.show(job)
                    left[job] = None

    def events(self, job: str, after: int = 0) -> list[LogEntry]:
        """A job's whole event log from after entry `after` on."""
        entries: list[LogEntry] = []
        while True:
            page = self._page(job, after)
            entries += page
            if len(page) < LOG_PAGE:
                return entries
            after = page[-1].seq


def fetch(store: Store, result: ClipResult) -> tuple[bytes, bytes]:
    """A finished clip's video and thumbnail. StoreError where they are gone."""
    video, thumbnail = store.get(result.video), store.get(result.thumbnail)
    if video is None or thumbnail is None:
        raise StoreError(f"{store.where(result.video)} is gone: submit with force to render anew")
    return video.data, thumbnail.data


@cache
def _background_loop() -> asyncio.AbstractEventLoop:
    """One for the whole process. Its thread is a daemon, and so delays no exit."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="farm", daemon=True).start()
    return loop
