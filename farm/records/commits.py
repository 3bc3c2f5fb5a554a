"""The conditional writes that keep a stale coordinator, and a stale attempt, from committing.

And those that keep one request, sent twice, from being two jobs.
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
    """Count a new coordinator in the store; no two ever get the same number."""
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
    """The count after that of `data`; above all there can have been, where it cannot be read."""
    if re.fullmatch(rb"[0-9]{1,18}", data):
        return int(data) + 1
    copy_aside(store, COORDINATOR, data, "it is no count of coordinators")
    return int(time.time())  # more seconds since 1970 than coordinators


def commit(store: Store, result: ClipResult, force: bool) -> ClipResult:
    """Write a clip's result where there is none, or over the one there was (`force`).

    Somebody else's, written first, stands: it has the same frames.
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
    """Let a key of the store name a job no more, if it is that one."""
    stored = get_record(store, Claim, key)
    if stored is not None and stored[0].job == job:
        store.delete(key)


class Claim(Record):
    """What an idempotency key names."""

    job: str
    at: float  # when it was first sent
    key: str = ""  # that it is under; those from before records had schemas do not say

    @property
    def own_key(self) -> str | None:
        return self.key if "schema_version" in self.model_fields_set else None


def claim(store: Store, key: str, mine: Claim, lasts_s: float) -> Claim:
    """Name a job by a key of the store; the claim that stands, which may be an earlier one."""
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
