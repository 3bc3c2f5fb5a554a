"""A coordinator's hold on its store: taken before anything is written, kept, and watched."""

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from farm.background import Background
from farm.clock import FarmClock
from farm.errors import StoreError
from farm.ownership.lease import BEAT_S, Lease
from farm.ownership.owner import this_process
from farm.store import KnownStore, open_store

log = logging.getLogger("farm")

P = ParamSpec("P")
R = TypeVar("R")

BEAT_PATIENCE_S = 3.0  # of a renewal, with an S3 server
PATIENCE_S = 10.0  # of all else: whoever waits for it is told, and what must be done is tried again
WATCH_S = 1.0  # between two looks at the store's owner, or at calls under way
GRACE_S = 3.0  # for which a call outlasts the store's trouble


class Ownership:
    """The store as its owner may use it; nothing is written before `take` is done."""

    def __init__(self, url: str, store_id: str, actor: str, address: str) -> None:
        """store_id: of the store that it must be. actor, address: of Ray, as `Owner` has them."""
        self.clock = FarmClock()
        self._thread = ThreadPoolExecutor(1, "lease")  # its own: others may be stuck in the store
        beats = KnownStore(open_store(url, make=False, patience_s=BEAT_PATIENCE_S), store_id)
        self._lease = Lease(beats, this_process(actor, address), self.clock, _end)
        self._obstacle: StoreError | None = None
        self._taken = False
        calls = open_store(url, make=False, patience_s=PATIENCE_S)
        self.store = KnownStore(calls, store_id, self._lease.allow_write)
        self.workers_store = KnownStore(open_store(url, make=False), store_id)  # fenced by attempts

    async def take(self) -> None:
        """Wait until the store is this process's; what is in the way is its `trouble` meanwhile."""
        while True:
            try:
                self._taken = await self._in_thread(self._lease.take)
            except StoreError as error:
                if str(error) != str(self._obstacle):
                    log.error("cannot begin yet: %s", error)
                self._obstacle = error
            if self._taken:
                return
            await asyncio.sleep(WATCH_S)

    async def keep(self) -> None:
        """Renew the lease, for ever."""
        while True:
            await asyncio.sleep(BEAT_S)
            former = self.trouble()
            try:
                await self._in_thread(self._lease.renew)
            except StoreError as error:
                if str(error) != str(former):
                    log.error("the store is in trouble: %s", error)
            else:
                if former:
                    log.warning("the store is well again")

    def trouble(self) -> StoreError | None:
        """Why the store cannot be written to now."""
        return self._lease.trouble() if self._taken else self._obstacle

    def check(self) -> None:
        """StoreError where the store cannot be written to now."""
        if trouble := self.trouble():
            raise type(trouble)(str(trouble), reason=trouble.reason)

    async def bounded(self, background: Background, work: Coroutine[Any, Any, R]) -> R:
        """The work's result. StoreError where the store is in trouble: then it goes on unseen."""
        task, since = background.start(work), 0.0
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.wait({task}, timeout=WATCH_S)
            if task.done():
                return task.result()
            trouble = self.trouble() or self.store.failure()
            since = (since or loop.time()) if trouble else 0.0
            if trouble and loop.time() - since >= GRACE_S:
                task.add_done_callback(lambda done: done.cancelled() or done.exception())
                told = f"{trouble}; what was asked for is done when the store is well again"
                raise StoreError(told, reason=trouble.reason)

    async def _in_thread(self, function: Callable[[], R]) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)


class Holder(Protocol):
    """What has calls that use the store."""

    _background: Background
    _ownership: Ownership


H = TypeVar("H", bound=Holder)
Call = Callable[Concatenate[H, P], Coroutine[Any, Any, R]]


def reads(call: Call[H, P, R]) -> Call[H, P, R]:
    """A call that ends, with the reason, where the store keeps it waiting."""

    @wraps(call)
    async def bounded(self: H, /, *arguments: P.args, **named: P.kwargs) -> R:
        return await self._ownership.bounded(self._background, call(self, *arguments, **named))

    return bounded


def writes(call: Call[H, P, R]) -> Call[H, P, R]:
    """As `reads`; and refused at once where the store is known to be in trouble."""

    @wraps(call)
    async def bounded(self: H, /, *arguments: P.args, **named: P.kwargs) -> R:
        self._ownership.check()
        return await self._ownership.bounded(self._background, call(self, *arguments, **named))

    return bounded


def _end() -> None:
    """Ray starts another process, which waits for its turn."""
    log.critical("another farm has taken the store over: this coordinator ends")
    os._exit(1)
