"""Clips that are finished: their results, and which tenants' jobs were answered with them."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from farm.background import Background
from farm.errors import StoreError
from farm.model.job import ClipResult, JobRecord
from farm.recent import Recent
from farm.records.clip_index import answer_keys, delete_clip, was_answer
from farm.store import Store
from farm.store.keys import result_key
from farm.store.quarantine import get_record
from farm.store.retry import retry_until_stored

KEPT = 10_000  # results that are kept in memory


class FinishedClips:
    """Reads results from the store, keeps the latest in memory, and deletes clips.

    A clip is deleted only while no open job wants it, and nobody can look it up meanwhile.
    """

    def __init__(self, store: Store, background: Background, indexed_since: int) -> None:
        """indexed_since: the result of the function of this name in `clip_index`."""
        self._store, self._background, self._since = store, background, indexed_since
        self._results = Recent[str, ClipResult](KEPT)
        self._answered = Recent[str, set[str]](KEPT)  # tenants by digest
        self._deletions: dict[str, asyncio.Task[bool]] = {}  # under way, by digest

    def add(self, result: ClipResult) -> None:
        """Keep the result of a clip that has just been finished."""
        self._results[result.request.digest] = result

    def in_memory(self, digest: str) -> ClipResult | None:
        """A clip's result, if it is in memory."""
        return self._results.get(digest)

    async def find(self, digest: str) -> ClipResult | None:
        """A clip's result, from memory or from the store; retried until the store answers."""
        while deletion := self._deletions.get(digest):
            await asyncio.wait({deletion})
        if digest in self._results:
            return self._results[digest]
        return await retry_until_stored(
            partial(self._background.read, _read_result, self._store, digest),
            f"clip {digest[:12]}: its result cannot be looked up yet",
        )

    async def read_all(self, digests: Sequence[str]) -> dict[str, ClipResult | None]:
        """The stored results of thousands of clips. Raises StoreError."""
        chunks = await self._background.read_in_chunks(self._read_chunk, digests)
        return {digest: result for chunk in chunks for digest, result in chunk}

    async def was_answer(self, tenant: str, digest: str) -> bool:
        """Whether a job of the tenant was answered with the clip. Raises StoreError."""
        if tenant in self._answered.get(digest, ()):
            return True
        return await self._background.read(was_answer, self._store, tenant, digest)

    def note_answer(self, tenant: str, digest: str) -> None:
        """Remember that a job of the tenant is answered with the clip."""
        self._answered[digest] = self._answered.get(digest, set()) | {tenant}

    async def enter(self, job: JobRecord) -> None:
        """Enter the clips of a job that has ended in the index. Raises StoreError."""
        puts = (self._background.call(self._store.put, key, b"") for key in answer_keys(job))
        await asyncio.gather(*puts)

    async def leave(self, job: JobRecord) -> None:
        """Remove a job that was deleted from the index. Raises StoreError."""
        for key in answer_keys(job):
            await self._background.call(self._store.delete, key)

    async def delete(self, clip: str, wanted: Callable[[], bool], checked: bool = False) -> bool:
        """Delete a clip unless a job has it or `wanted` says so; returns whether it is gone.

        wanted: whether an open job wants the clip. checked: whether all jobs' records were read,
        and none that has ended has it; otherwise a clip stays about which the index cannot say.
        Raises StoreError.
        """
        while deletion := self._deletions.get(clip):
            await asyncio.wait({deletion})
        if wanted():
            return False
        self._results.pop(clip, None)
        self._answered.pop(clip, None)
        since = 0 if checked else self._since
        deleting = self._background.call(delete_clip, self._store, clip, since)
        task = self._background.start(deleting, handled=(StoreError,))
        self._deletions[clip] = task
        task.add_done_callback(lambda _: self._deletions.pop(clip))
        return await asyncio.shield(task)

    def _read_chunk(self, digests: Sequence[str]) -> list[tuple[str, ClipResult | None]]:
        return [(digest, _read_result(self._store, digest)) for digest in digests]


def _read_result(store: Store, digest: str) -> ClipResult | None:
    stored = get_record(store, ClipResult, result_key(digest))
    return stored[0] if stored else None
