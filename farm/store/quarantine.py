"""What cannot be read is set aside, so that it stops nobody but its owner. It is never deleted."""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress

from farm.background import Background
from farm.errors import StoreError, UnreadableError
from farm.store import Store
from farm.store.keys import QUARANTINE, quarantined_key
from farm.store.records import R, Record, parse_record

log = logging.getLogger("farm")

REASON = "reason.json"
LOOK_S = 2.0  # at most, for a look
LOOK_EVERY_S = 30.0  # where nobody asks
NAMED = 100  # objects whose reasons are told


class SetAside(Record):
    """Why an object was set aside; kept beside its bytes."""

    key: str  # that it had
    reason: str
    at: float  # seconds since 1970


def get_record(store: Store, kind: type[R], key: str) -> tuple[R, str] | None:
    """A record and its etag; None where there is none, or one that was set aside just now."""
    stored = store.get(key)
    if stored is None:
        return None
    try:
        return parse_record(kind, key, stored.data), stored.etag
    except UnreadableError as error:
        move_aside(store, key, stored.data, str(error))
        return None


def move_aside(store: Store, key: str, data: bytes, reason: str) -> str:
    """Take an object that cannot be read out of the way; where its bytes are now, for people."""
    place = copy_aside(store, key, data, reason)
    store.delete(key)
    return place


def copy_aside(store: Store, key: str, data: bytes, reason: str) -> str:
    """As `move_aside`, where something else takes the object's place at once."""
    copy = quarantined_key(key, data, "object")
    store.put(copy, data)
    note = SetAside(key=key, reason=reason, at=time.time())
    store.put(quarantined_key(key, data, REASON), note.model_dump_json().encode())
    log.error("%s cannot be read and is set aside as %s: %s", key, store.where(copy), reason)
    return store.where(copy)


class Quarantine:
    """What is set aside in a store, as it was when it was looked at last."""

    def __init__(self, store: Store, background: Background, told: Callable[[int], None]) -> None:
        """told: of how many objects there are, whenever somebody has looked."""
        self._store, self._background, self._told = store, background, told
        self.count = 0
        self.notes: dict[str, SetAside] = {}  # why, by key of the note: of NAMED of them

    async def look(self) -> None:
        """Look at the store again; where it does not answer, what was seen last will do."""
        with suppress(StoreError, TimeoutError):
            await asyncio.wait_for(self._background.call(self._look), LOOK_S)
        self._told(self.count)

    async def keep_looking(self) -> None:
        """For ever."""
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
        except UnreadableError:  # it is counted, and stays where it is
            return None
