"""A store's lease: which process owns the store, renewed as long as it does.

The owner counts a beat up every few seconds. Whoever else wants the store watches the beat, and
times it with its own clock: no two hosts' clocks are ever compared. The owner trusts its lease for
less time than others wait for it, counted from before its last renewal; after that, as after a
pause, it writes nothing until it has renewed the lease, which fails where another has taken it.
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
TRUST_S = 8.0  # for which the owner writes without renewing
PADDING = b" " * 2**15  # a store that takes this has room for a job's record
TAKE_S = 15.0  # without a beat, until another takes the store


class Record(BaseModel):
    """What `lease.json` holds."""

    version: Literal[1] = 1
    owner: Owner
    beat: int
    clock: Reading


class Lease:
    """The lease of one store, for one process that wants it or has it. Safe in threads."""

    def __init__(
        self,
        store: KnownStore,
        me: Owner,
        clock: FarmClock,
        superseded: Callable[[], None],
        now: Callable[[], float] = uptime,
    ) -> None:
        """superseded: called once where another has taken the store."""
        self._store, self._me, self._clock = store, me, clock
        self._superseded, self._now = superseded, now
        self._lock = threading.Lock()
        self._beat, self._etag, self._renewed = 0, "", -TAKE_S
        self._taken_away = False
        self._trouble: StoreError | None = None  # of the last renewal
        self._tried = -TAKE_S
        self._watched: tuple[bytes, float] | None = None  # a beat, and since when
        self._alive = b""  # the last beat of an owner that was seen to live

    def take(self) -> bool:
        """Try once; False as long as it cannot be told whether the owner lives.

        LeaseError: it does. Call again, every second or so: the owner may end. Other StoreErrors
        interrupt the watch, which then begins anew.
        """
        try:
            stored = self._store.get(LEASE)
            if stored is not None and not self._is_free(stored):
                return False
            return self._write(stored.etag if stored else None)
        except LeaseError:
            raise
        except StoreError:
            self._watched = None  # beats may have been missed
            raise

    def renew(self) -> None:
        """Count the beat up. LeaseError where another has the store; StoreError."""
        with self._lock:
            self._try_to_renew()

    def trouble(self) -> StoreError | None:
        """Why nothing can be written now."""
        silent = self._now() - self._renewed
        if self._trouble is None and silent >= TRUST_S:
            text = f"the store {self._store.where()} has not answered for {silent:.0f} s"
            return StoreError(text, reason="it does not answer")
        return self._trouble

    def allow_write(self) -> None:
        """Return where the store is this process's; else LeaseError, or StoreError."""
        if self._taken_away:
            raise self._lost()
        if self._now() - self._renewed < TRUST_S:
            return
        with self._lock:  # of many threads the first renews it, or hears that it cannot
            if self._now() - self._renewed < TRUST_S:
                return
            if self._trouble is not None and self._now() - self._tried < BEAT_S:
                raise self._trouble
            self._try_to_renew()

    def _is_free(self, stored: Stored) -> bool:
        """Whether its owner has ended, or has been silent for long enough."""
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
            log.warning("the store's owner is silent for %.0f s: %s", TAKE_S, record)
            return True
        if self._alive and record is not None:
            raise LeaseError(
                f"the store {self._store.where()} is another farm's: {record.owner}. Use that farm "
                "(RAY_ADDRESS or FARM_URL names it), end it, or give this one another FARM_STORE",
                reason="another farm owns it",
            )
        return False

    def _write(self, etag: str | None) -> bool:
        """Write this process in as the owner; False where another was faster."""
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
            self._trouble = error
            raise
        else:
            self._trouble = None
        finally:
            self._tried = self._now()

    def _renew(self) -> None:
        self._beat += 1
        if self._write(self._etag):
            return
        self._store.confirm()  # that it is not another store's
        stored = self._store.get(LEASE)
        record = _parse(stored.data) if stored else None
        if record is not None and record.owner != self._me:
            self._taken_away = True
            self._superseded()
            raise self._lost()
        # It was deleted or damaged, or the answer to an earlier renewal was lost.
        if not self._write(stored.etag if stored else None):
            raise StoreError(f"{self._store.where(LEASE)} is written by others; trying again")

    def _lost(self) -> LeaseError:
        return LeaseError(
            f"the store {self._store.where()} was taken over by another farm; this one has ended",
            reason="another farm owns it",
        )

    def _data(self) -> bytes:
        record = Record(owner=self._me, beat=self._beat, clock=self._clock.read())
        return record.model_dump_json().encode() + PADDING


def _parse(data: bytes) -> Record | None:
    """What a lease says; None where it is damaged."""
    try:
        return Record.model_validate_json(data)
    except ValidationError:
        return None


def owner_of(data: bytes) -> Owner | None:
    """Who a lease's bytes name."""
    record = _parse(data)
    return record.owner if record else None
