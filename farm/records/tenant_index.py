"""The index of jobs by tenant.

In the store it has an empty object for each job, and a single object for the jobs that are older
than the index.
"""

import asyncio
import json
import logging
from collections.abc import Sequence
from contextlib import suppress

from pydantic import TypeAdapter, ValidationError
from sortedcontainers import SortedSet

from farm.background import Background
from farm.store import Store
from farm.store.keys import JOBS, TENANTS_WHOLE, tenant_key, tenant_prefix
from farm.store.retry import retry_until_stored

log = logging.getLogger("farm")

OLDER = TypeAdapter(dict[str, list[str]])  # the ids of jobs by tenant


def page_of_ids(ids: "SortedSet[str]", after: str, limit: int, newest_first: bool) -> list[str]:
    """Up to `limit` ids that follow `after`, which is empty for the first page."""
    if newest_first:
        stop = ids.bisect_left(after) if after else len(ids)
        return list(ids.islice(max(0, stop - limit), stop, reverse=True))
    start = ids.bisect_right(after)
    return list(ids.islice(start, start + limit))


class TenantIndex:
    """The sorted ids of each tenant's jobs, read from the store when a tenant first needs them."""

    def __init__(self, store: Store, background: Background) -> None:
        self._store, self._background = store, background
        self._ids: dict[str, SortedSet[str]] = {}
        self._late: dict[str, set[str]] = {}  # jobs added while their tenant's ids are being read
        self._reading = asyncio.Lock()
        self._older: dict[str, list[str]] = {}  # jobs older than the index, by tenant
        self.whole = False  # whether `_older` has been read or built

    async def add(self, tenant: str, job: str) -> None:
        """Add a job, before its record is written. May be repeated. Raises StoreError."""
        await self._background.call(self._store.put, tenant_key(tenant, job), b"")
        if tenant in self._late:
            self._late[tenant].add(job)
        if tenant in self._ids:
            self._ids[tenant].add(job)

    async def remove(self, tenant: str, job: str) -> None:
        """Remove a job. Raises StoreError."""
        await self._background.call(self._store.delete, tenant_key(tenant, job))
        if tenant in self._ids:
            self._ids[tenant].discard(job)

    async def ids(self, tenant: str, after: str, limit: int, newest_first: bool) -> list[str]:
        """A page of the ids of a tenant's jobs, oldest or newest first, that come after `after`.

        Raises StoreError.
        """
        async with self._reading:
            if tenant not in self._ids:
                self._ids[tenant] = await self._read(tenant)
        return page_of_ids(self._ids[tenant], after, limit, newest_first)

    async def _read(self, tenant: str) -> "SortedSet[str]":
        prefix, late = tenant_prefix(tenant), self._late.setdefault(tenant, set())
        try:
            keys = await self._background.read(lambda: list(self._store.list(prefix)))
        finally:
            del self._late[tenant]
        found = (key[len(prefix) :] for key in keys if key.endswith(".job"))
        return SortedSet(
            late.union(self._older.get(tenant, ()), (name.removesuffix(".job") for name in found))
        )

    async def complete(self) -> None:
        """Index the jobs that are older than the index, once for each store."""
        if not self.whole:
            self._older = await retry_until_stored(
                self._read_older, "the jobs cannot be indexed by tenant yet"
            )
            self.whole = True

    async def _read_older(self) -> dict[str, list[str]]:
        older = await self._background.read(self._known)
        return await self._scan() if older is None else older

    def _known(self) -> dict[str, list[str]] | None:
        stored = self._store.get(TENANTS_WHOLE)
        try:
            return OLDER.validate_json(stored.data) if stored else None
        except ValidationError as error:
            log.warning("%s cannot be read and is rebuilt: %s", TENANTS_WHOLE, error)
            return None

    async def _scan(self) -> dict[str, list[str]]:
        keys = await self._background.read(lambda: list(self._store.list(JOBS)))
        older: dict[str, list[str]] = {}
        for found in await self._background.read_in_chunks(self._tenants_of, keys):
            for tenant, job in found:
                older.setdefault(tenant, []).append(job)
        data = json.dumps(older).encode()
        await self._background.call(self._store.put, TENANTS_WHOLE, data)
        return older

    def _tenants_of(self, keys: Sequence[str]) -> list[tuple[str, str]]:
        found = []
        for key in keys:
            stored = self._store.get(key)
            with suppress(ValueError, LookupError, TypeError):  # `read_job` reports damaged records
                tenant = json.loads(stored.data)["tenant"] if stored else None
                if isinstance(tenant, str):
                    found.append((tenant, key[len(JOBS) : -len(".json")]))
        return found
