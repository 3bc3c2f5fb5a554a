"""Listing of everything in a store that may be deleted, as `farm/model/retention.py` needs it."""

from collections import defaultdict
from collections.abc import Callable

from farm.errors import UnreadableError
from farm.model.job import ClipResult, JobRecord
from farm.model.retention import Facts, Inventory, facts_of
from farm.records.salvage import read_jobs
from farm.store import Store
from farm.store.keys import (
    ANSWERED,
    ANSWERS,
    CHECKPOINTS,
    CLAIMS,
    CLIPS,
    EVENTS,
    JOBS,
    LEASE,
    PICTURES,
    PREVIEWS,
    TENANTS,
    USES,
    answered_clip,
    attempt_prefix,
    clip_of,
    clip_of_preview,
    is_claim_key,
    job_key,
    job_of,
    owner_of,
    picture_of,
    result_key,
    step_of,
)
from farm.store.protocol import Entry
from farm.store.records import parse_record

Known = dict[str, tuple[Entry, Facts]]  # finished jobs, by id: their records' entries, and facts


def take_inventory(
    store: Store, read_job: Callable[[str], JobRecord | None], known: Known
) -> Inventory:
    """List the store, and read the records of all jobs. Raises StoreError.

    read_job: reads a job's record; None if it is gone, or cannot be read. known: the finished jobs
    that were read before, which are not read again; it is brought up to date.
    """
    found = Inventory()
    # Objects are listed before jobs are read, so that a new job is among those that are read.
    _list_clips(store, found)
    for entry in store.entries(PICTURES):
        if digest := picture_of(entry.key):
            found.pictures[digest] = entry
    found.claims = [entry for entry in store.entries(CLAIMS) if is_claim_key(entry.key)]
    for prefix in (EVENTS, USES, TENANTS, ANSWERS, JOBS):
        _group(store, prefix, owner_of, found.own)
    found.jobs = _read_jobs(found, read_job, known)
    found.lease_at = max((entry.written_at for entry in store.entries(LEASE)), default=0.0)
    for clip in found.doubtful():
        found.committed |= _committed(store, clip, found)
    return found


def _list_clips(store: Store, found: Inventory) -> None:
    _group(store, CLIPS, clip_of, found.clips)
    _group(store, CHECKPOINTS, lambda key: (step_of(key) or (None,))[0], found.checkpoints)
    _group(store, PREVIEWS, clip_of_preview, found.checkpoints)
    _group(store, ANSWERED, answered_clip, found.markers)


def _group(
    store: Store,
    prefix: str,
    name_of: Callable[[str], str | None],
    into: defaultdict[str, list[Entry]],
) -> None:
    """Sort the objects below a prefix by their names; those without one are not the farm's."""
    for entry in store.entries(prefix):
        if name := name_of(entry.key):
            into[name].append(entry)


def _read_jobs(
    found: Inventory, read_job: Callable[[str], JobRecord | None], known: Known
) -> list[Facts]:
    records = {e.key: e for own in found.own.values() for e in own if e.key.startswith(JOBS)}
    found.recorded = {job for key in records if (job := job_of(key))}
    for gone in known.keys() - found.recorded:
        del known[gone]
    new = [job for job in found.recorded if known.get(job, (None,))[0] != records[job_key(job)]]
    for job, record in zip(new, read_jobs(read_job, new), strict=True):
        known.pop(job, None)
        if record is not None:
            known[job] = records[job_key(job)], facts_of(record)
    facts = []
    for job in sorted(known):
        entry, each = known[job]
        if each.ended_at is None:
            del known[job]  # its waiting clips may be many, and it changes
        else:  # a clock that was wrong when the job ended must not make it look old
            each = each._replace(ended_at=max(each.ended_at, entry.written_at))
        facts.append(each)
    return facts


def _committed(store: Store, clip: str, found: Inventory) -> set[str]:
    """The attempt that a clip's record names; all of its attempts if the record is unreadable."""
    stored = store.get(result_key(clip))
    if stored is None:
        return set()
    try:
        return {attempt_prefix(parse_record(ClipResult, result_key(clip), stored.data).video)}
    except UnreadableError:
        return set(found.attempts(clip))
