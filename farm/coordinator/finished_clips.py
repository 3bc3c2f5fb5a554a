"""Clips that are finished: their results, and which tenants' jobs were answered with them."""

import logging
from collections.abc import Sequence
from functools import partial

from farm.background import Background
from farm.errors import StoreError
from farm.model.job import ClipResult
from farm.recent import Recent
from farm.store import Store
from farm.store.keys import answered_key, result_key
from farm.store.quarantine import get_record
from farm.store.retry import retry_until_stored

log = logging.getLogger("farm")

KEPT = 10_000  # results that are kept in memory


class FinishedClips:
    """Reads results from the store, and keeps the latest in memory."""

    def __init__(self, store: Store, background: Background) -> None:
        self._store, self._background = store, background
        self._results = Recent[str, ClipResult](KEPT)
        self._answered = Recent[tuple[str, str], None](KEPT)  # by tenant and digest

    def add(self, result: ClipResult) -> None:
        """Keep the result of a clip that has just been finished."""
        self._results[result.request.digest] = result

    def in_memory(self, digest: str) -> ClipResult | None:
        """A clip's result, if it is in memory."""
        return self._results.get(digest)

    async def find(self, digest: str) -> ClipResult | None:
        """A clip's result, from memory or from the store; retried until the store answers."""
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
        if (tenant, digest) in self._answered:
            return True
        return await self._background.read(self._store.exists, answered_key(tenant, digest))

    def note_answer(self, tenant: str, digest: str) -> None:
        """Remember that a job of the tenant is answered with the clip."""
        if (tenant, digest) not in self._answered:
            self._answered[tenant, digest] = None
            self._background.start(self._write_answer(tenant, digest))

    async def _write_answer(self, tenant: str, digest: str) -> None:
        try:
            await self._background.call(self._store.put, answered_key(tenant, digest), b"")
        except StoreError as error:  # `was_answer` may then be False for this tenant
            log.warning("clip %s: cannot note that %s has it: %s", digest[:12], tenant, error)

    def _read_chunk(self, digests: Sequence[str]) -> list[tuple[str, ClipResult | None]]:
        return [(digest, _read_result(self._store, digest)) for digest in digests]


def _read_result(store: Store, digest: str) -> ClipResult | None:
    stored = get_record(store, ClipResult, result_key(digest))
    return stored[0] if stored else None
