"""Reading of job records and event logs, with repair of those that are damaged.

A damaged record is quarantined, and replaced by that of a failed job, which gives the reason and
keeps every field that is still readable.
"""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json

from farm.errors import UnreadableError
from farm.model.job import JobRecord, LogEntry, Opened, State
from farm.model.request import UNCOUNTED, Model, RenderRequest
from farm.store import Store
from farm.store.keys import events_key, events_prefix, job_key, last_entry_of, open_key
from farm.store.quarantine import Damaged, copy_aside, move_aside, read_record
from farm.store.records import SCHEMA, parse_record
from svd_engine.params import RenderDefaults, RenderParams

READERS = 16  # records that are read at once by `read_jobs`


def read_job(store: Store, job: str) -> tuple[JobRecord, str] | None:
    """Read a job's record and its etag; None if there is none.

    A damaged record is replaced as described above; if its tenant is unknown, it is deleted. Raises
    ConflictError if somebody else writes the record meanwhile.
    """
    key = job_key(job)
    found = read_record(store, JobRecord, key)
    if not isinstance(found, Damaged):
        return found
    stored, reason = found
    place = copy_aside(store, key, stored.data, reason)
    error_text = (
        f"its record could not be read, and was moved to {place}: {reason}; submit it again"
    )
    lost = _salvaged(job, _tenant_of(store, job), stored.data, error_text)
    if lost is None:
        store.delete(key)
        return None
    data = {"state": lost.state, "error": lost.error}
    last = last_entry(store, job) + 1
    entry = LogEntry(job=job, seq=last, at=time.time(), event="fail", data=data)
    store.put(events_key(job, last), entry.model_dump_json().encode())
    return lost, store.put(key, lost.model_dump_json().encode(), if_match=stored.etag)


def read_jobs(
    read: Callable[[str], JobRecord | None], jobs: Iterable[str]
) -> list[JobRecord | None]:
    """Read many records by `read`, several at once, in the order of `jobs`."""
    with ThreadPoolExecutor(READERS) as threads:
        return list(threads.map(read, jobs))


def read_log(store: Store, job: str, after: int) -> list[LogEntry]:
    """The entries of a job's log after number `after`; unreadable ones are quarantined."""
    parts = (read_part(store, job, key) or [] for key in log_keys(store, job, after))
    return [entry for part in parts for entry in part if entry.seq > after]


def read_part(store: Store, job: str, key: str) -> list[LogEntry] | None:
    """The entries of a log's part, or None if it is gone; unreadable ones are quarantined."""
    stored = store.get(key)
    if stored is None:
        return None
    entries, faults = entries_of(job, stored.data)
    if faults:
        rest = b"".join(entry.model_dump_json().encode() + b"\n" for entry in entries)
        if entries:
            copy_aside(store, key, stored.data, faults[0])
            store.put(key, rest, if_match=stored.etag)
        else:
            move_aside(store, key, stored.data, faults[0])
    return entries


def log_keys(store: Store, job: str, after: int = 0) -> list[str]:
    """The keys of a job's log that hold entries after number `after`."""
    keys = store.list(events_prefix(job), events_key(job, after) if after else "")
    return [key for key in keys if last_entry_of(key) is not None]


def last_entry(store: Store, job: str) -> int:
    """The number of the last entry of a job's log; 0 if it is empty."""
    return max((last_entry_of(key) or 0 for key in log_keys(store, job)), default=0)


def entries_of(job: str, data: bytes) -> tuple[list[LogEntry], list[str]]:
    """Parse a log's part: its readable entries, and what is wrong with the others."""
    entries, faults = [], [] if data else ["it is empty"]
    for line in data.splitlines():
        try:
            entry = parse_record(LogEntry, "", line)
        except UnreadableError as error:
            faults.append(str(error))
            continue
        if entry.job in ("", job):
            entries.append(entry)
        else:
            faults.append(f"it belongs to the log of {entry.job}")
    return entries, faults


def _tenant_of(store: Store, job: str) -> str | None:
    """The tenant of a job, from the index of open jobs or from its log; None if unknown."""
    opened = store.get(open_key(job))
    try:
        if opened is not None:
            return parse_record(Opened, open_key(job), opened.data).tenant
    except UnreadableError:
        pass
    tenants = (entry.data.get("tenant") for entry in read_log(store, job, 0))
    return next((tenant for tenant in tenants if isinstance(tenant, str)), None)


def _salvaged(job: str, tenant: str | None, data: bytes, error: str) -> JobRecord | None:
    """A failed job with the readable fields of a damaged record; None if its tenant is unknown."""
    try:
        document = from_json(data, allow_partial=True)
    except ValueError:
        document = None
    found = document if isinstance(document, dict) and document.get("id") == job else {}
    now = time.time()
    params = RenderParams().resolve(RenderDefaults(num_frames=1))
    placeholder = RenderRequest(
        picture="0" * 64, weights="0" * 64, dtype="float32", numerics=UNCOUNTED, params=params
    )
    fields: dict[str, Any] = {
        "id": job,
        "model": Model(),
        "request": placeholder,
        "created_at": now,
    }
    for name, value in found.items():
        with suppress(ValidationError):
            JobRecord.model_validate(fields | {name: value}, extra="allow")
            fields[name] = value
    fields |= {"tenant": tenant} if tenant else {}
    if "tenant" not in fields:
        return None
    fields |= {"state": State.FAILED, "error": error, "schema_version": SCHEMA}
    if fields.get("finished_at") is None:  # it was open
        fields["finished_at"] = now
    return JobRecord.model_validate(fields, extra="allow")
