"""Changes of jobs, published to those who wait for them."""

import asyncio
from collections.abc import Sequence

from farm.recent import Recent

PAUSE_S = 0.05  # at least, between two times that waiters are woken


class News:
    """Knows at which version each job changed last; watchers wait for changes of some jobs."""

    def __init__(self, version: int, kept: int) -> None:
        """version: above all that were published before. kept: how many jobs are remembered."""
        self.version = self._first = version
        self._changed = Recent[str, int](kept)
        self._woken = asyncio.Event()
        self._last = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def publish(self, job: str) -> None:
        """Note that a job has changed. Watchers wake at once, but at most every PAUSE_S."""
        self.version += 1
        self._changed[job] = self.version
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(max(loop.time(), self._last + PAUSE_S), self._wake)

    async def wait(
        self, jobs: Sequence[str], after: int, timeout_s: float
    ) -> tuple[int, list[str]]:
        """The current version, and those of `jobs` that changed after version `after`.

        Waits for a change; the list is empty if there is none within `timeout_s`.
        """
        wanted, loop = frozenset(jobs), asyncio.get_running_loop()
        until = loop.time() + timeout_s
        while not (found := self._since(wanted, after)) and loop.time() < until:
            try:
                await asyncio.wait_for(self._woken.wait(), until - loop.time())
            except TimeoutError:
                break
        return self.version, found

    def _since(self, jobs: frozenset[str], after: int) -> list[str]:
        if after < self._first:  # a version of an earlier coordinator, or of none
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
