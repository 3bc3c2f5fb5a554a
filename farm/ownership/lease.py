"""A store's lease, which names the process that owns the store.

The owner renews the lease every few seconds by incrementing its beat. Any other process that wants
the store watches the beat and times it with its own clock, so the clocks of two hosts are never
compared. The owner trusts its lease for a shorter time than others wait for it, counted from
before its last renewal. After that time, it writes nothing until it has renewed the lease; the
renewal fails if another process has taken the lease meanwhile.
"""

import logging
import threading
from collections.abc import Callable
from typing import Literal

from pydantic import BaseModel, ValidationError

from farm.clock import FarmClock, Reading, uptime
from farm.errors import ConflictError, LeaseError, StoreError
from farm.ownership.owner import Owner, is_dead
from farm.store import KnownStore
from farm.store.keys import LEASE
from farm.store.protocol import Stored

log = logging.getLogger("farm")

BEAT_S = 2.0  # between two renewals
TRUST_S = 8.0  # how long the owner may write after a renewal
PADDING = b" " * 2**15  # if there is room for this, there is room for a job's record
TAKE_S = 15.0  # how long the beat must be unchanged before another process takes the store


class LeaseRecord(BaseModel):
    """The content of `lease.json`."""

    version: Literal[1] = 1
    owner: Owner
    beat: int
    clock: Reading


class Lease:
    """One process's view of a store's lease, which it wants or holds. Thread-safe."""

    def __init__(
        self,
        store: KnownStore,
        me: Owner,
        clock: FarmClock,
        superseded: Callable[[], None],
        now: Callable[[], float] = uptime,
    ) -> None:
        """superseded: called once when another process has taken the store from this one."""
        self._store, self._me, self._clock = store, me, clock
        self._superseded, self._now = superseded, now
        self._lock = threading.Lock()
        self._beat, self._etag, self._renewed = 0, "", -TAKE_S
        self._taken_away = False
        self._error: StoreError | None = None  # the error of the last renewal, if it failed
        self._tried = -TAKE_S
        self._watched: tuple[bytes, float] | None = None  # the lease's bytes, and when first seen
        self._alive = b""  # the lease's bytes when its beat was last seen to change

    def take(self) -> bool:
        """Try once to take the lease; False while it is unknown whether the owner is alive.

        Raises LeaseError if the owner is alive. In both cases call again every second or so. Any
        other StoreError restarts the watch, because beats may have been missed.
        """
        try:
            stored = self._store.get(LEASE)
            if stored is not None and not self._is_free(stored):
                return False
            return self._write(stored.etag if stored else None)
        except LeaseError:
            raise
        except StoreError:
            self._watched = None
            raise

    def renew(self) -> None:
        """Increment the beat. Raises LeaseError if another process has the store, or StoreError."""
        with self._lock:
            self._try_to_renew()

    def write_error(self) -> StoreError | None:
        """Why the store cannot be written to now; None if it can."""
        silent = self._now() - self._renewed
        if self._error is None and silent >= TRUST_S:
            text = f"the store {self._store.where()} has not answered for {silent:.0f} s"
            return StoreError(text, reason="it does not answer")
        return self._error

    def allow_write(self) -> None:
        """Return if this process owns the store; otherwise raise LeaseError or StoreError."""
        if self._taken_away:
            raise self._lost()
        if self._now() - self._renewed < TRUST_S:
            return
        with self._lock:  # one thread renews the lease, and the others use its result
            if self._now() - self._renewed < TRUST_S:
                return
            if self._error is not None and self._now() - self._tried < BEAT_S:
                raise self._error
            self._try_to_renew()

    def _is_free(self, stored: Stored) -> bool:
        """Whether the lease's owner has ended, or has not renewed it for TAKE_S."""
        record = _parse(stored.data)
        if record is not None:
            self._clock.go_on(record.clock)
            owner = record.owner
            mine = bool(owner.actor) and owner.actor == self._me.actor  # Ray has restarted it
            if mine or is_dead(owner):
                return True
        now = self._now()
        if self._watched is None:
            self._watched = stored.data, now
        elif self._watched[0] != stored.data:
            self._watched, self._alive = (stored.data, now), stored.data
        if now - self._watched[1] >= TAKE_S:
            log.warning("the store's owner has been silent for %.0f s: %s", TAKE_S, record)
            return True
        if self._alive and record is not None:
            raise LeaseError(
                f"the store {self._store.where()} belongs to another farm: {record.owner}. Use "
                "that farm (set RAY_ADDRESS or FARM_URL to it), stop it, or set another FARM_STORE",
                reason="another farm owns it",
            )
        return False

    def _write(self, etag: str | None) -> bool:
        """Write this process into the lease as its owner; False if another process was faster."""
        asked, data = self._now(), self._data()
        try:
            if etag is None:
                self._etag = self._store.put(LEASE, data, if_none_match=True)
            else:
                self._etag = self._store.put(LEASE, data, if_match=etag)
        except ConflictError:
            return False
        self._renewed = asked
        return True

    def _try_to_renew(self) -> None:
        try:
            self._renew()
        except StoreError as error:
            self._error = error
            raise
        else:
            self._error = None
        finally:
            self._tried = self._now()

    def _renew(self) -> None:
        self._beat += 1
        if self._write(self._etag):
            return
        self._store.confirm()  # the conflict may come from a different store in the same place
        stored = self._store.get(LEASE)
        record = _parse(stored.data) if stored else None
        if record is not None and record.owner != self._me:
            self._taken_away = True
            self._superseded()
            raise self._lost()
        # The lease was deleted or damaged, or the response to an earlier renewal was lost.
        if not self._write(stored.etag if stored else None):
            raise StoreError(f"{self._store.where(LEASE)} keeps changing; retrying")

    def _lost(self) -> LeaseError:
        return LeaseError(
            f"the store {self._store.where()} was taken over by another farm; this one has ended",
            reason="another farm owns it",
        )

    def _data(self) -> bytes:
        record = LeaseRecord(owner=self._me, beat=self._beat, clock=self._clock.read())
        return record.model_dump_json().encode() + PADDING


def _parse(data: bytes) -> LeaseRecord | None:
    """Parse a lease; None if it is damaged."""
    try:
        return LeaseRecord.model_validate_json(data)
    except ValidationError:
        return None


def owner_of(data: bytes) -> Owner | None:
    """The owner named by the content of `lease.json`; None if it is damaged."""
    record = _parse(data)
    return record.owner if record else None
