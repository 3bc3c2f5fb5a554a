"""The quarantine of the store: an unreadable object is moved there, so that it harms only its job.

The farm never deletes a quarantined object, so an operator can still repair it.
"""

import asyncio
import logging
import time
from contextlib import suppress
from typing import NamedTuple

from farm.background import Background
from farm.errors import StoreError, UnreadableError
from farm.store import Store
from farm.store.keys import QUARANTINE, quarantined_key
from farm.store.protocol import Stored
from farm.store.records import R, Record, parse_record

log = logging.getLogger("farm")

REASON = "reason.json"
LOOK_S = 2.0  # the longest that a caller waits for a fresh listing
LOOK_EVERY_S = 30.0  # between two listings in the background
NAMED = 100  # objects whose reasons are read and reported; the others are only counted


class SetAside(Record):
    """Why an object was quarantined; stored beside the object."""

    key: str  # the object's former key
    reason: str
    at: float  # seconds since 1970


class Damaged(NamedTuple):
    """An object that is not the record that its key says, and why."""

    stored: Stored
    reason: str


def read_record(store: Store, kind: type[R], key: str) -> tuple[R, str] | Damaged | None:
    """Read a record and its etag; None if there is none."""
    stored = store.get(key)
    if stored is None:
        return None
    try:
        return parse_record(kind, key, stored.data), stored.etag
    except UnreadableError as error:
        return Damaged(stored, str(error))


def get_record(store: Store, kind: type[R], key: str) -> tuple[R, str] | None:
    """Like `read_record`, but a damaged record is quarantined, and counts as missing."""
    found = read_record(store, kind, key)
    if isinstance(found, Damaged):
        move_aside(store, key, found.stored.data, found.reason)
        return None
    return found


def move_aside(store: Store, key: str, data: bytes, reason: str) -> str:
    """Move an unreadable object to the quarantine; returns its new place, for messages."""
    place = copy_aside(store, key, data, reason)
    store.delete(key)
    return place


def copy_aside(store: Store, key: str, data: bytes, reason: str) -> str:
    """Copy an unreadable object to the quarantine; returns the copy's place, for messages.

    For a caller that overwrites the object at once; `move_aside` deletes it.
    """
    copy = quarantined_key(key, data, "object")
    store.put(copy, data)
    note = SetAside(key=key, reason=reason, at=time.time())
    store.put(quarantined_key(key, data, REASON), note.model_dump_json().encode())
    log.error("%s cannot be read and was moved to %s: %s", key, store.where(copy), reason)
    return store.where(copy)


class Quarantine:
    """The contents of a store's quarantine, as of the last look at it."""

    def __init__(self, store: Store, background: Background) -> None:
        self._store, self._background = store, background
        self.count = 0
        self.notes: dict[str, SetAside] = {}  # by key of the note; NAMED of them at most

    async def look(self) -> None:
        """Look again; if the store does not answer in time, keep the result of the last look."""
        with suppress(StoreError, TimeoutError):
            await asyncio.wait_for(self._background.call(self._look), LOOK_S)

    async def keep_looking(self) -> None:
        """Look every LOOK_EVERY_S seconds, for ever."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_EVERY_S)

    def _look(self) -> None:
        keys = [key for key in self._store.list(QUARANTINE) if key.endswith(f"/{REASON}")]
        self.notes = {key: note for key in keys[:NAMED] if (note := self._note(key))}
        self.count = len(keys)

    def _note(self, key: str) -> SetAside | None:
        stored = None if key in self.notes else self._store.get(key)
        try:
            return parse_record(SetAside, key, stored.data) if stored else self.notes.get(key)
        except UnreadableError:  # the object is still counted, without its reason
            return None
