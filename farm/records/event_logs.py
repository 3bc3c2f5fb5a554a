"""Event logs of jobs: written as they grow, compacted as they age, read in pages.

A log is one or more objects of lines, each named by its last entry. What was written lately is in
memory too, so those who follow a job do not read the store. All of it has threads of its own:
however many read, nothing else waits for them.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from farm.background import Background
from farm.errors import StoreError
from farm.model.job import LOG_PAGE, LogEntry
from farm.records.salvage import log_keys, read_part
from farm.store import Store
from farm.store.keys import events_key, last_entry_of

log = logging.getLogger("farm")

FLUSH_S = 1.0  # between two writes of a job's log
PARTS = 32  # objects of a log that is being written; then they are made one
FULL = 2**18  # bytes of an object that is not made larger any more
LEFT = 4  # objects at most that a finished log of less than FULL is left in
THREADS = 16  # that write, and as many that read


@dataclass
class _Part:
    """An object of a log."""

    last: int  # the number of its last entry
    entries: list[LogEntry] | None = None  # None: in the store alone


@dataclass
class _Log:
    """A log that grows."""

    last: int | None  # the number of the last entry; None: the store knows
    pending: list[LogEntry] = field(default_factory=list)  # not numbered yet
    parts: list[_Part] = field(default_factory=list)  # since the last object that is full
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class EventLogs:
    """The logs of open jobs, and a way to read all of them."""

    def __init__(self, store: Store, changed: Callable[[str], None]) -> None:
        """changed: told of a job whose log has grown."""
        self._store, self._changed = store, changed
        self._threads = Background(THREADS)
        self._logs: dict[str, _Log] = {}

    def begin(self, job: str) -> None:
        """A new job: its log is empty."""
        self._logs[job] = _Log(0)

    def add(self, job: str, event: str, data: dict[str, Any]) -> None:
        """Add to a log. The latest progress takes the place of one not yet written."""
        pending = self._logs.setdefault(job, _Log(None)).pending
        entry = LogEntry(job=job, seq=0, at=time.time(), event=event, data=data)
        last = pending[-1] if pending else None
        if last and last.event == event == "progress" and last.data["seed"] == data["seed"]:
            pending[-1] = entry
        else:
            pending.append(entry)

    async def keep(self) -> None:
        """Write what is new, for ever."""
        while True:
            await asyncio.sleep(FLUSH_S)
            await asyncio.gather(*(self.flush(job) for job in self._unwritten()))

    def _unwritten(self) -> list[str]:
        return [job for job, each in self._logs.items() if each.pending]

    async def flush(self, job: str) -> None:
        """One write after another: followers read on from the last that they have."""
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
                log.warning("%s: cannot write its log yet: %s", job, error)
                growing.pending = pending + growing.pending
                return
            self._changed(job)
            if len(growing.parts) >= PARTS:
                await self._compact(job, growing)

    async def close(self, job: str) -> None:
        """Write what is left of a log that grows no more."""
        await self.flush(job)
        growing = self._logs.pop(job, None)
        if growing is not None and len(growing.parts) > LEFT:
            await self._compact(job, growing)

    async def _write(self, job: str, growing: _Log, pending: list[LogEntry]) -> None:
        if growing.last is None:  # an earlier coordinator began it
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
        """Make one object of many: first it is written, in place of the last, then others go."""
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
        except StoreError as error:  # what is there twice is told once
            log.warning("%s: its log stays in pieces: %s", job, error)

    async def _data(self, job: str, key: str, part: _Part) -> bytes:
        entries = part.entries
        if entries is None:
            entries = await self._threads.call(read_part, self._store, job, key)
        return _lines(entries or [])

    async def entries(self, job: str, after: int) -> list[LogEntry]:
        """The written entries after number `after`, at least LOG_PAGE of them or all there are."""
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
        """None where the log was compacted meanwhile."""
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
