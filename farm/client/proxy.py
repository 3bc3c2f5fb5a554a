"""FarmApi for callers outside the coordinator's process, over any transport."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import update_wrapper
from typing import Any, Concatenate, ParamSpec, TypeVar

from farm.caller import Caller, Door, called_by, current_caller, this_caller
from farm.errors import PictureMissingError, RequestError, StoreError
from farm.model.farm_api import FarmApi
from farm.model.job import JobView, Submission
from farm.model.request import digest_of
from farm.records.pictures import write_picture
from farm.store import KnownStore, Store, open_store
from svd_engine.picture_files import check_picture

P = ParamSpec("P")
R = TypeVar("R")

STORE_S = 10.0  # how long clients retry while an S3 server does not answer
# Attempts to write a job's picture. It can vanish before the job names it, when the last other job
# that named it is deleted.
WRITES = 3


def _called(
    method: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate["FarmProxy", P], Coroutine[Any, Any, R]]:
    """A method of FarmApi that calls the coordinator's method of the same name."""
    name = method.__name__

    async def call(self: "FarmProxy", /, *arguments: P.args, **keywords: P.kwargs) -> R:
        with called_by(self.caller()):
            answer: R = await self._call(name, *arguments, **keywords)
        return answer

    update_wrapper(call, method)
    return call


class FarmProxy:
    """Implements FarmApi by calls of the coordinator's methods."""

    def __init__(self, call: Callable[..., Awaitable[Any]], door: Door = "python") -> None:
        """call: calls a method by its name with arguments, and retries until it is answered.

        door: by which the calls come that have no caller yet.
        """
        self._call, self._door = call, door
        self._opened: tuple[Store, int] | None = None  # the store, and the most pixels of a picture
        self._asked: dict[str, asyncio.Future[JobView | None]] = {}  # by job; for the next call
        self._asking: asyncio.Task[None] | None = None

    ready = _called(FarmApi.ready)
    describe = _called(FarmApi.describe)
    submit_stored = _called(FarmApi.submit_stored)
    check = _called(FarmApi.check)
    find_all = _called(FarmApi.find_all)
    show = _called(FarmApi.show)
    jobs = _called(FarmApi.jobs)
    views = _called(FarmApi.views)
    watch = _called(FarmApi.watch)
    events = _called(FarmApi.events)
    cancel = _called(FarmApi.cancel)
    delete = _called(FarmApi.delete)
    pause = _called(FarmApi.pause)
    resume = _called(FarmApi.resume)
    set_priority = _called(FarmApi.set_priority)
    usage = _called(FarmApi.usage)
    garbage = _called(FarmApi.garbage)
    collect_garbage = _called(FarmApi.collect_garbage)
    drain = _called(FarmApi.drain)
    status = _called(FarmApi.status)

    async def submit(self, submission: Submission, picture: bytes) -> JobView:
        """Like FarmApi's. The picture goes to the store from here, not through the coordinator."""
        digest = await asyncio.to_thread(digest_of, picture)
        with called_by(self.caller()):  # all attempts are one request
            for _ in range(WRITES):
                try:
                    return await self.submit_stored(submission, digest)
                except PictureMissingError:
                    await self._write(digest, picture)
        raise StoreError(f"the picture {digest} is deleted each time it is written")

    def caller(self) -> Caller:
        """The caller of the call under way; by default this process, with a new request id."""
        return current_caller() or this_caller(self._door)

    async def find(self, job: str) -> JobView | None:
        """Like FarmApi's. Polls are the most frequent calls: those that come at once are merged."""
        asked = self._asked.setdefault(job, asyncio.get_running_loop().create_future())
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._find_asked())
        return await asyncio.shield(asked)

    async def store(self) -> Store:
        """Like FarmApi's."""
        store, _ = await self._open()
        return store

    async def _write(self, digest: str, picture: bytes) -> None:
        store, max_pixels = await self._open()
        try:
            await asyncio.to_thread(check_picture, picture, max_pixels)
        except ValueError as error:
            raise RequestError(str(error)) from error
        await asyncio.to_thread(write_picture, store, digest, picture)

    async def _find_asked(self) -> None:
        while self._asked:
            asked, self._asked = self._asked, {}
            try:
                views = await self.find_all(list(asked))
            except Exception as error:
                for future in asked.values():
                    future.set_exception(error)
            else:
                for future, view in zip(asked.values(), views, strict=True):
                    future.set_result(view)

    async def _open(self) -> tuple[Store, int]:
        if self._opened is None:
            there = await self.ready()
            store = open_store(there["store"], make=False, patience_s=STORE_S)
            self._opened = KnownStore(store, there["store_id"]), there["max_pixels"]
        return self._opened
