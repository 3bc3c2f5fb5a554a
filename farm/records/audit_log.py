"""The audit log in the store: written in the background, read by day.

An object has the lines of one day and one coordinator. It is written again with each batch of new
lines until it is full, so there are few objects, and a reader never sees a part of a line.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from datetime import date
from itertools import groupby

from farm.background import Background
from farm.errors import StoreError
from farm.model.audit import AuditEntry, from_lines, to_lines
from farm.store import Store
from farm.store.keys import AUDIT, audit_key, day_of_audit

log = logging.getLogger("farm")

FLUSH_S = 0.5  # between two writes: what a crash loses is not older than this and a write
FULL = 2**16  # bytes after which an object is not written again
BATCH = 500  # entries that are written at once
MOST = 20_000  # entries that wait while the store cannot be written to


class AuditLog:
    """Writes the audit log; each coordinator has objects of its own."""

    def __init__(
        self, store: Store, background: Background, wall: Callable[[], float] = time.time
    ) -> None:
        """wall: the wall clock."""
        self._store, self._background = store, background
        self._began_ms, self._number = round(wall() * 1000), 0
        self._day: date | None = None  # of the object that is being filled
        self._data = b""  # what is in it
        self._pending: list[AuditEntry] = []
        self._lost = 0  # entries, because too many waited
        self._wall, self._trouble = wall, False

    def add(self, entry: AuditEntry) -> None:
        """Note an entry, which is written within about a second if the store allows it."""
        if len(self._pending) < MOST:
            self._pending.append(entry)
            return
        self._lost += 1

    async def keep(self) -> None:
        """Write new entries, for ever."""
        while True:
            await asyncio.sleep(FLUSH_S)
            try:
                await self.flush()
            except StoreError as error:
                if not self._trouble:
                    log.warning("the audit log cannot be written yet: %s", error)
                self._trouble = True
            else:
                self._trouble = False

    async def flush(self) -> None:
        """Write all entries that wait. Raises StoreError; those that are not written wait on."""
        while self._pending:
            day, batch = next(groupby(self._pending[:BATCH], lambda entry: entry.day))
            entries = list(batch)
            if day != self._day or len(self._data) >= FULL:
                self._day, self._data, self._number = day, b"", self._number + 1
            data = self._data + to_lines(entries)
            key = audit_key(day, self._began_ms, self._number)
            await self._background.call(self._store.put, key, data)
            self._data = data
            del self._pending[: len(entries)]
            self._say_lost()

    def _say_lost(self) -> None:
        if self._lost:
            why = f"{self._lost} entries were lost: too many waited for the store"
            log.error("audit log: %s", why)
            self._lost = 0
            self.add(AuditEntry(at=self._wall(), action="lost", outcome="failed", why=why))


def read_audit(store: Store, since: date, tenant: str | None = None) -> Iterator[AuditEntry]:
    """The entries of a tenant, or all, from a day in UTC on, oldest first.

    Lines that cannot be read are left out with a warning. Raises StoreError.
    """
    keys = ((day_of_audit(key), key) for key in store.list(AUDIT))
    for _, key in sorted((day, key) for day, key in keys if day is not None and day >= since):
        stored = store.get(key)
        found = list(from_lines(stored.data)) if stored else []
        if None in found:
            log.warning("%s has %d unreadable lines", store.where(key), found.count(None))
        for entry in found:
            if entry is not None and tenant in (None, entry.tenant):
                yield entry
