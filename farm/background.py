"""What the coordinator's loop needs beside asyncio: background work, and news to wait for."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")
R = TypeVar("R")
T = TypeVar("T")

CHUNK = 100  # objects of the store that one thread reads in its turn
PAUSE_S = 0.05  # between two times that those who wait for news are woken


class Background:
    """Tasks that run by themselves, and calls that would block the loop."""

    def __init__(self, threads: int) -> None:
        """threads: for `call`, and as many for `read`, so that neither waits for the other."""
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="background")
        self._readers = ThreadPoolExecutor(threads, thread_name_prefix="reader")
        self._tasks: set[asyncio.Task[Any]] = set()  # asyncio alone keeps no task alive

    def start(self, work: Coroutine[Any, Any, R]) -> "asyncio.Task[R]":
        """Run it, whether anybody waits for it or not."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def call(self, function: Callable[..., R], *arguments: Any) -> R:
        """The function's result, from a thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, function, *arguments)

    async def read(self, function: Callable[..., R], *arguments: Any) -> R:
        """As `call`, for what many may ask for at once: nothing that is written waits behind it."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, function, *arguments)

    async def read_in_chunks(
        self, function: Callable[[Sequence[T]], R], of: Sequence[T]
    ) -> list[R]:
        """As `read`, of thousands of small things, in order: CHUNK of them in a thread's turn."""
        chunks = (of[start : start + CHUNK] for start in range(0, len(of), CHUNK))
        return await asyncio.gather(*(self.read(function, chunk) for chunk in chunks))


class Recent(OrderedDict[K, V], Generic[K, V]):
    """The last so many values that were set."""

    def __init__(self, kept: int) -> None:
        super().__init__()
        self._kept = kept

    def __setitem__(self, key: K, value: V) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        while len(self) > self._kept:
            self.popitem(last=False)


class News:
    """Which jobs changed after which version; watchers wait for some of them."""

    def __init__(self, version: int, kept: int) -> None:
        """version: above all that were ever told. kept: jobs whose change is remembered."""
        self.version = self._first = version
        self._changed = Recent[str, int](kept)
        self._woken = asyncio.Event()
        self._last = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def tell(self, job: str) -> None:
        """A job changed. Watchers learn it at once, or with what else changes within PAUSE_S."""
        self.version += 1
        self._changed[job] = self.version
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(max(loop.time(), self._last + PAUSE_S), self._wake)

    async def wait(
        self, jobs: Sequence[str], after: int, timeout_s: float
    ) -> tuple[int, list[str]]:
        """The version now, and those of `jobs` that changed after `after`; none after a while."""
        wanted, loop = frozenset(jobs), asyncio.get_running_loop()
        until = loop.time() + timeout_s
        while not (found := self._since(wanted, after)) and loop.time() < until:
            try:
                await asyncio.wait_for(self._woken.wait(), until - loop.time())
            except TimeoutError:
                break
        return self.version, found

    def _since(self, jobs: frozenset[str], after: int) -> list[str]:
        if after < self._first:  # told by a coordinator before this one, or by none
            return sorted(jobs)
        found = []
        for job, version in reversed(self._changed.items()):
            if version <= after:
                break
            if job in jobs:
                found.append(job)
        return found

    def _wake(self) -> None:
        self._last, self._timer = asyncio.get_running_loop().time(), None
        self._woken.set()
        self._woken = asyncio.Event()
