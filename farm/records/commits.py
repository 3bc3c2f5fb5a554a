"""Conditional writes that keep a stale coordinator or attempt from committing a clip.

Idempotency keys are claimed here too, so that a request that is sent twice becomes one job.
"""

import re
import time

from farm.errors import ConflictError
from farm.model.job import ClipResult
from farm.store import Store
from farm.store.keys import COORDINATOR, result_key
from farm.store.quarantine import copy_aside, get_record
from farm.store.records import SCHEMA, Record


def take_fence(store: Store) -> int:
    """The fencing token of a new coordinator: the number of coordinators of the store so far."""
    while True:
        stored = store.get(COORDINATOR)
        fence = 1 if stored is None else _after(store, stored.data)
        try:
            if stored is None:
                store.put(COORDINATOR, str(fence).encode(), if_none_match=True)
            else:
                store.put(COORDINATOR, str(fence).encode(), if_match=stored.etag)
        except ConflictError:
            continue
        return fence


def _after(store: Store, data: bytes) -> int:
    """The fencing token after the one in `data`.

    If that is unreadable, the next must still exceed all earlier ones: the time in seconds does,
    because there were never more coordinators than seconds since 1970.
    """
    if re.fullmatch(rb"[0-9]{1,18}", data):
        return int(data) + 1
    copy_aside(store, COORDINATOR, data, "it is not a number of coordinators")
    return int(time.time())


def commit(store: Store, result: ClipResult, force: bool) -> ClipResult:
    """Write a clip's result, and return the result that is in the store in the end.

    force: replace an earlier result. If another process writes a result at the same time, that one
    is kept: its frames are the same.
    """
    key = result_key(result.request.digest)
    data = result.model_dump_json().encode()
    former = get_record(store, ClipResult, key)
    try:
        if former is None:
            store.put(key, data, if_none_match=True)
        elif force:
            store.put(key, data, if_match=former[1])
        else:
            return former[0]
    except ConflictError:
        former = get_record(store, ClipResult, key)
        if former is None:
            raise
        return former[0]
    return result


def unclaim(store: Store, key: str, job: str) -> None:
    """Delete the claim at a key of the store, if it names this job."""
    stored = get_record(store, Claim, key)
    if stored is not None and stored[0].job == job:
        store.delete(key)


def delete_old_claim(store: Store, key: str, before: float) -> bool:
    """Delete the claim at a key of the store unless it was made after that time.

    Returns whether it is gone.
    """
    stored = get_record(store, Claim, key)
    if stored is not None and stored[0].at >= before:
        return False
    store.delete(key)
    return True


class Claim(Record):
    """The job that an idempotency key stands for."""

    job: str
    at: float  # when the request was first sent, in seconds since 1970
    key: str = ""  # the claim's key in the store; empty in claims older than `schema_version`

    @property
    def own_key(self) -> str | None:
        return self.key if "schema_version" in self.model_fields_set else None


def claim(store: Store, key: str, mine: Claim, lasts_s: float) -> Claim:
    """Claim a key of the store for a job; returns the claim in force, which may be an earlier one.

    An earlier claim stays in force for `lasts_s` seconds.
    """
    mine = mine.model_copy(update={"key": key, "schema_version": SCHEMA})
    data = mine.model_dump_json().encode()
    while True:
        stored = get_record(store, Claim, key)
        if stored is not None and stored[0].at + lasts_s > mine.at:
            return stored[0]
        try:
            if stored is None:
                store.put(key, data, if_none_match=True)
            else:
                store.put(key, data, if_match=stored[1])
        except ConflictError:
            continue
        return mine
