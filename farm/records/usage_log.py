"""What tenants have used by day, deleted jobs included.

A job's own record says what it took. Before the record is deleted, an object below `usage/` says
so instead, and these objects are later merged by day. Each step may be repeated after a crash, and
a job that is found in several places is counted once.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time

from pydantic import Field

from farm.errors import UnreadableError
from farm.model.job import JobRecord
from farm.model.usage import FIRST_DAY, ByDay, Usage, day_of, end_ms
from farm.records.salvage import read_jobs
from farm.store import Store
from farm.store.keys import (
    JOBS,
    USAGE,
    day_usage_key,
    deleted_job_key,
    deleted_job_of,
    is_day_usage_key,
    job_key,
    job_of,
)
from farm.store.quarantine import get_record
from farm.store.records import R, Record, parse_record

SKEW_S = 24 * 3600.0  # that a record may seem to be written before its job ended


class DeletedJob(Record):
    """What a job took that has been deleted, or is about to be."""

    tenant: str
    day: date
    usage: Usage


class DayUsage(Record):
    """What the deleted jobs took that ended on a day."""

    day: date
    tenants: dict[str, Usage] = Field(default_factory=dict)
    merged: frozenset[str] = frozenset()  # the keys of the last that were added

    @property
    def own_key(self) -> str:
        return day_usage_key(self.day.isoformat())


def note_deleted(store: Store, job: JobRecord) -> None:
    """Write down what a job took that has ended, before it is deleted. Raises StoreError."""
    usage = Usage()
    usage.count(job)
    note = DeletedJob(tenant=job.tenant, day=day_of(job), usage=usage)
    store.put(_note_key(job), note.model_dump_json().encode())


def merge_deleted(store: Store, before: date) -> None:
    """Merge what is noted of deleted jobs, for each day before that one. Raises StoreError."""
    days: dict[date, dict[str, DeletedJob]] = {}
    for key, note in _read_all(store, DeletedJob, deleted_job_of):
        # If its deletion was cut off, the job is noted again, perhaps days after a merge.
        if note.day < before and not store.exists(job_key(deleted_job_of(key) or "")):
            days.setdefault(note.day, {})[key] = note
    for day, notes in days.items():
        stored = get_record(store, DayUsage, day_usage_key(day.isoformat()))
        total = stored[0] if stored else DayUsage(day=day)
        for key, note in notes.items():
            if key not in total.merged:
                total.tenants.setdefault(note.tenant, Usage()).add(note.usage)
        total = total.model_copy(update={"merged": frozenset(notes)})
        store.put(total.own_key, total.model_dump_json().encode())
        for key in notes:
            store.delete(key)


def read_usage(
    store: Store, read_job: Callable[[str], JobRecord | None], since: date = FIRST_DAY
) -> ByDay:
    """What tenants used from a day on; open jobs are left out. Raises StoreError.

    read_job: reads a job's record; None if it is gone, or cannot be read.
    """
    # In this order: a job that is deleted, or merged, meanwhile is found twice, and not never.
    earliest = datetime.combine(since, time(), UTC).timestamp() - SKEW_S
    names = [job_of(entry.key) for entry in store.entries(JOBS) if entry.written_at >= earliest]
    found = read_jobs(read_job, filter(None, names))
    jobs = {_note_key(job): job for job in found if job and not job.state.is_open}
    notes = dict(_read_all(store, DeletedJob, deleted_job_of))
    used, merged = ByDay(), set[str]()
    for _, total in _read_all(store, DayUsage, is_day_usage_key):
        merged |= total.merged
        for tenant, usage in total.tenants.items():
            used.setdefault((total.day, tenant), Usage()).add(usage)
    for key in notes.keys() - merged:
        used.setdefault((notes[key].day, notes[key].tenant), Usage()).add(notes[key].usage)
    for key in jobs.keys() - merged - notes.keys():
        used.setdefault((day_of(jobs[key]), jobs[key].tenant), Usage()).count(jobs[key])
    return {key: usage for key, usage in used.items() if key[0] >= since}


def _note_key(job: JobRecord) -> str:
    """The key of what is noted of a job that has ended."""
    return deleted_job_key(day_of(job).isoformat(), end_ms(job), job.id)


def _read_all(
    store: Store, kind: type[R], is_key: Callable[[str], object]
) -> Iterator[tuple[str, R]]:
    """The records below `usage/` whose keys are of one form; unreadable ones are left out."""
    for key in store.list(USAGE):
        stored = store.get(key) if is_key(key) else None
        try:
            if stored is not None:
                yield key, parse_record(kind, key, stored.data)
        except UnreadableError:
            continue
