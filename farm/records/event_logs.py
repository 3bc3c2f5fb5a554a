"""The event logs of jobs: written as they grow, compacted from time to time, read in pages.

In the store, a log is one or more parts: objects with one entry per line, named by the number of
their last entry. Recent parts are also kept in memory, so that clients who follow a running job do
not read the store. The logs have threads of their own, so that many readers delay nothing else.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from farm.background import Background
from farm.errors import StoreError
from farm.model.job import LOG_PAGE, Event, JobRecord, LogEntry, State
from farm.records.salvage import last_entry, log_keys, read_part
from farm.store import Store
from farm.store.keys import events_key, last_entry_of

log = logging.getLogger("farm")

FLUSH_S = 1.0  # between two writes of a job's log
PARTS = 32  # a growing log with this many parts is compacted
FULL = 2**18  # a part of this many bytes is left as it is when its log is compacted
LEFT = 4  # a finished log with more parts than this is compacted once more
THREADS = 16  # for writing, and as many for reading
ENDS = {State.COMPLETED: Event.COMPLETE, State.FAILED: Event.FAIL, State.CANCELLED: Event.STOPPED}


@dataclass
class _Part:
    """An object that holds a part of a log."""

    last: int  # the number of its last entry
    entries: list[LogEntry] | None = None  # None: only in the store, not in memory


@dataclass
class _Log:
    """A growing log."""

    last: int | None  # the last entry's number; None: not read from the store yet
    pending: list[LogEntry] = field(default_factory=list)  # entries without numbers, to be written
    parts: list[_Part] = field(default_factory=list)  # the parts after the last full one
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class EventLogs:
    """Writes the event logs of open jobs, and reads those of all jobs."""

    def __init__(
        self,
        store: Store,
        changed: Callable[[str], None],
        wall: Callable[[], float] = time.time,
    ) -> None:
        """changed: called with the id of each job whose log has grown in the store.

        wall: the wall clock.
        """
        self._store, self._changed, self._wall = store, changed, wall
        self._threads = Background(THREADS)
        self._logs: dict[str, _Log] = {}

    def begin(self, job: str) -> None:
        """Begin the empty log of a new job."""
        self._logs[job] = _Log(0)

    def add(self, job: str, event: str, data: dict[str, Any]) -> None:
        """Add an entry to a log. Progress of a clip replaces its last one, if that is unwritten."""
        pending = self._logs.setdefault(job, _Log(None)).pending
        entry = LogEntry(job=job, seq=0, at=self._wall(), event=event, data=data)
        last = pending[-1] if pending else None
        if last and last.event == event == "progress" and last.data["seed"] == data["seed"]:
            pending[-1] = entry
        else:
            pending.append(entry)

    async def keep(self) -> None:
        """Write new entries every FLUSH_S seconds, for ever."""
        while True:
            await asyncio.sleep(FLUSH_S)
            await asyncio.gather(*(self.flush(job) for job in self._unwritten()))

    def _unwritten(self) -> list[str]:
        return [job for job, each in self._logs.items() if each.pending]

    async def flush(self, job: str) -> None:
        """Write a log's new entries. One write at a time, so that they appear in order."""
        growing = self._logs.get(job)
        if growing is None:
            return
        async with growing.lock:
            pending, growing.pending = growing.pending, []
            if not pending:
                return
            try:
                await self._write(job, growing, pending)
            except StoreError as error:
                log.warning("%s: cannot write its event log yet: %s", job, error)
                growing.pending = pending + growing.pending
                return
            self._changed(job)
            if len(growing.parts) >= PARTS:
                await self._compact(job, growing)

    async def add_end(self, job: JobRecord) -> None:
        """Log a job's end, if its coordinator was killed before it had. Raises StoreError."""
        last = await self._threads.call(last_entry, self._store, job.id)
        entries = await self.entries(job.id, max(0, last - 1))
        if not entries or entries[-1].data.get("state") != job.state:
            error = {"error": job.error} if job.error else {}
            self.add(job.id, ENDS[job.state], {"state": job.state} | error)
            await self.close(job.id)

    async def close(self, job: str) -> None:
        """Write the last entries of a finished job's log, and compact it."""
        await self.flush(job)
        growing = self._logs.pop(job, None)
        if growing is not None and len(growing.parts) > LEFT:
            await self._compact(job, growing)

    async def _write(self, job: str, growing: _Log, pending: list[LogEntry]) -> None:
        if growing.last is None:  # an earlier coordinator began this log
            keys = await self._keys(job, 0)
            growing.parts = [_Part(last_entry_of(key) or 0) for key in keys]
            growing.last = growing.parts[-1].last if keys else 0
        numbers = range(growing.last + 1, growing.last + 1 + len(pending))
        entries = [
            entry.model_copy(update={"seq": seq})
            for seq, entry in zip(numbers, pending, strict=True)
        ]
        await self._threads.call(self._store.put, events_key(job, entries[-1].seq), _lines(entries))
        growing.last = entries[-1].seq
        growing.parts.append(_Part(growing.last, entries))

    async def _compact(self, job: str, growing: _Log) -> None:
        """Merge a log's parts into one object.

        It is written over the last part before the others are deleted, so no entry is ever missing.
        """
        parts = growing.parts
        keys = [events_key(job, part.last) for part in parts]
        try:
            data = await asyncio.gather(*map(self._data, [job] * len(keys), keys, parts))
            full = max((n + 1 for n, each in enumerate(data) if len(each) >= FULL), default=0)
            merged = b"".join(data[full:])
            if len(data) > full + 1:
                await self._threads.call(self._store.put, keys[-1], merged)
            growing.parts = [] if len(merged) >= FULL else [_Part(parts[-1].last)]
            gone = (self._threads.call(self._store.delete, key) for key in keys[full:-1])
            await asyncio.gather(*gone)
        except StoreError as error:  # readers ignore entries that are now in two objects
            log.warning("%s: cannot compact its event log: %s", job, error)

    async def _data(self, job: str, key: str, part: _Part) -> bytes:
        entries = part.entries
        if entries is None:
            entries = await self._threads.call(read_part, self._store, job, key)
        return _lines(entries or [])

    async def entries(self, job: str, after: int) -> list[LogEntry]:
        """The stored entries after number `after`: at least LOG_PAGE, or all if there are fewer."""
        growing = self._logs.get(job)
        lately = growing.parts if growing else []
        known = [entry for part in lately for entry in part.entries or ()]
        if known and known[0].seq <= after + 1:
            return [entry for entry in known if entry.seq > after]
        while True:
            found = await self._stored(job, after)
            if found is not None:
                return found

    async def _stored(self, job: str, after: int) -> list[LogEntry] | None:
        """A page of entries from the store; None if the log was compacted meanwhile."""
        found: dict[int, LogEntry] = {}
        keys = await self._keys(job, after)
        for start in range(0, len(keys), THREADS):
            chunk = keys[start : start + THREADS]
            read = (self._threads.read(read_part, self._store, job, key) for key in chunk)
            for part in await asyncio.gather(*read):
                if part is None:
                    return None
                found |= {entry.seq: entry for entry in part if entry.seq > after}
            if len(found) >= LOG_PAGE:
                break
        return [found[seq] for seq in sorted(found)]

    async def _keys(self, job: str, after: int) -> list[str]:
        return await self._threads.read(log_keys, self._store, job, after)


def _lines(entries: list[LogEntry]) -> bytes:
    return "".join(entry.model_dump_json() + "\n" for entry in entries).encode()
