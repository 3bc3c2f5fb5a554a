"""A coordinator's ownership of its store: it takes the lease, renews it, and bounds calls by it."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from farm.background import Background, end_process
from farm.clock import FarmClock
from farm.errors import StoreError
from farm.metrics.meter import Meter
from farm.ownership.lease import BEAT_S, Lease
from farm.ownership.owner import this_process
from farm.store import KnownStore, open_store

log = logging.getLogger("farm")

P = ParamSpec("P")
R = TypeVar("R")

BEAT_PATIENCE_S = 3.0  # how long a renewal retries while an S3 server does not answer
PATIENCE_S = 10.0  # how long the coordinator's other requests retry before they fail
WATCH_S = 1.0  # between two attempts to take the lease, and two checks of a call in progress
GRACE_S = 3.0  # how long a call may wait while the store cannot be written to


class Ownership:
    """A store and its lease. `store` refuses writes until `take` has returned."""

    def __init__(self, url: str, store_id: str, actor: str, address: str, meter: Meter) -> None:
        """store_id: the id that the store must have. actor, address: Ray's, as in `Owner`.

        meter: to be told of the store's calls.
        """
        self.clock = FarmClock()
        self._thread = ThreadPoolExecutor(1, "lease")  # renewals must not wait for other requests
        beats = KnownStore(open_store(url, make=False, patience_s=BEAT_PATIENCE_S), store_id)
        self._lease = Lease(beats, this_process(actor, address), self.clock, _end)
        self._take_error: StoreError | None = None  # why the lease could not be taken yet
        self._taken = False
        calls = open_store(url, make=False, patience_s=PATIENCE_S)
        self.store = KnownStore(calls, store_id, self._lease.allow_write, meter)
        # Workers need no lease: each attempt at a clip writes under keys of its own.
        self.workers_store = KnownStore(open_store(url, make=False), store_id)

    async def take(self) -> None:
        """Wait until this process owns the store; `write_error` says what prevents it meanwhile."""
        while True:
            try:
                self._taken = await self._in_thread(self._lease.take)
            except StoreError as error:
                if str(error) != str(self._take_error):
                    log.error("cannot start yet: %s", error)
                self._take_error = error
            if self._taken:
                return
            await asyncio.sleep(WATCH_S)

    async def keep(self) -> None:
        """Renew the lease, for ever."""
        while True:
            await asyncio.sleep(BEAT_S)
            former = self.write_error()
            try:
                await self._in_thread(self._lease.renew)
            except StoreError as error:
                if str(error) != str(former):
                    log.error("the store cannot be written to: %s", error)
            else:
                if former:
                    log.warning("the store can be written to again")

    def write_error(self) -> StoreError | None:
        """Why the store cannot be written to now; None if it can."""
        return self._lease.write_error() if self._taken else self._take_error

    def check(self) -> None:
        """Raise StoreError if the store cannot be written to now."""
        if error := self.write_error():
            raise type(error)(str(error), reason=error.reason)

    async def bounded(self, background: Background, work: Coroutine[Any, Any, R]) -> R:
        """Do the work and return its result.

        Raises StoreError if the store cannot be written to for GRACE_S; the work then continues in
        the background.
        """
        task, since = background.start(work, handled=(Exception,)), 0.0
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.wait({task}, timeout=WATCH_S)
            if task.done():
                return task.result()
            error = self.write_error() or self.store.recent_write_error()
            since = (since or loop.time()) if error else 0.0
            if error and loop.time() - since >= GRACE_S:
                task.add_done_callback(lambda done: done.cancelled() or done.exception())
                message = f"{error}; the request is carried out when the store is back"
                raise StoreError(message, reason=error.reason)

    async def _in_thread(self, function: Callable[[], R]) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)


class Holder(Protocol):
    """An object whose methods `reads` and `writes` decorate."""

    _background: Background
    _ownership: Ownership


H = TypeVar("H", bound=Holder)
Call = Callable[Concatenate[H, P], Coroutine[Any, Any, R]]


def reads(call: Call[H, P, R]) -> Call[H, P, R]:
    """Decorate a method that reads the store: it fails with a reason if the store blocks it."""

    @wraps(call)
    async def bounded(self: H, /, *arguments: P.args, **named: P.kwargs) -> R:
        return await self._ownership.bounded(self._background, call(self, *arguments, **named))

    return bounded


def writes(call: Call[H, P, R]) -> Call[H, P, R]:
    """Decorate a method that writes to the store.

    It behaves as with `reads`, and fails at once while the store is known to be unwritable.
    """

    @wraps(call)
    async def bounded(self: H, /, *arguments: P.args, **named: P.kwargs) -> R:
        self._ownership.check()
        return await self._ownership.bounded(self._background, call(self, *arguments, **named))

    return bounded


def _end() -> None:
    """End this process. Ray starts a new one, which waits for the lease."""
    end_process("another farm has taken over the store")
