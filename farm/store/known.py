"""A store that is verified by its id, so that a different one is never used in its place.

A folder that was moved, an unmounted file system and an emptied bucket all look like a new store.
The id, which is written once, tells them apart. While the expected id is not there, writes are
refused, and no object is reported as missing.
"""

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from farm.errors import ConflictError, StoreError, VanishedError
from farm.metrics import catalogue
from farm.metrics.meter import Meter, Unmetered
from farm.store.local import LocalStore
from farm.store.protocol import Entry, Store, Stored

T = TypeVar("T")

IDENTITY = "store.json"
RECENT_S = 15.0  # how long a failed write counts as a recent failure
FRESH_S = 1.0  # how long a server's id stays verified; a folder is checked every time


class Identity(BaseModel):
    """The content of `store.json`."""

    id: str


def identify(store: Store) -> str:
    """Return the store's id, and create one if the store has none. Raises StoreError."""
    data = Identity(id=uuid.uuid4().hex).model_dump_json().encode()
    while (found := _read(store)) is None:
        try:
            store.put(IDENTITY, data, if_none_match=True)
        except ConflictError:
            continue
    return found


def _read(store: Store) -> str | None:
    stored = store.get(IDENTITY)
    if stored is None:
        return None
    try:
        return Identity.model_validate_json(stored.data).id
    except ValidationError as error:
        raise StoreError(
            f"{store.where(IDENTITY)} does not hold a valid store id: restore the original file; "
            "if it is lost, delete this one, and the farm's next start writes a new one"
        ) from error


class KnownStore:
    """A store that must have a given id; otherwise every call raises VanishedError."""

    def __init__(
        self,
        store: Store,
        store_id: str,
        allow: Callable[[], None] = lambda: None,
        meter: Meter | None = None,
    ) -> None:
        """allow: called before each write; it raises an error to forbid the write.

        meter: to be told how long calls take, and which fail.
        """
        self._store, self._id, self._allow = store, store_id, allow
        self._meter = meter or Unmetered()
        self._fresh_s = 0.0 if isinstance(store, LocalStore) else FRESH_S
        self._confirmed = -FRESH_S
        self._failed: tuple[StoreError, float] | None = None

    def __reduce__(self) -> tuple[type["KnownStore"], tuple[Store, str]]:
        return KnownStore, (self._store, self._id)  # the rest belongs to this process alone

    def metered(self, meter: Meter) -> "KnownStore":
        """The same store, whose calls are reported to a meter."""
        return KnownStore(self._store, self._id, self._allow, meter)

    @property
    def url(self) -> str:
        return self._store.url

    def confirm(self) -> None:
        """Verify the store's id now. Raises VanishedError if it differs, or StoreError."""
        asked = time.monotonic()
        found = _read(self._store)
        if found != self._id:
            what = "is empty or gone" if found is None else "is another store"
            raise VanishedError(
                f"the store {self._store.where()} {what}: its {IDENTITY} does not have the id "
                f"{self._id}. Bring the folder, mount or bucket back, and the farm continues; "
                "nothing was written in its place",
                reason="it is not where it was",
            )
        self._confirmed = asked

    def recent_write_error(self) -> StoreError | None:
        """The error of a write that failed within the last RECENT_S seconds, if there is one."""
        failed = self._failed
        return failed[0] if failed and time.monotonic() - failed[1] < RECENT_S else None

    def put(
        self, key: str, data: bytes, *, if_match: str | None = None, if_none_match: bool = False
    ) -> str:
        self._allow()
        self._check()
        try:
            with self._timed("put"):
                return self._store.put(key, data, if_match=if_match, if_none_match=if_none_match)
        except ConflictError:
            raise
        except StoreError as error:
            self._failed = error, time.monotonic()
            raise

    def get(self, key: str) -> Stored | None:
        with self._timed("get"):
            stored = self._store.get(key)
        if stored is None:
            self._check()  # the object may only seem missing, because the store itself is gone
        return stored

    def exists(self, key: str) -> bool:
        with self._timed("head"):
            found = self._store.exists(key)
        if not found:
            self._check()
        return found

    def size(self, key: str) -> int | None:
        with self._timed("head"):
            size = self._store.size(key)
        if size is None:
            self._check()
        return size

    def delete(self, key: str) -> None:
        self._allow()
        self._check()
        with self._timed("delete"):
            self._store.delete(key)

    def list(self, prefix: str, after: str = "") -> Iterator[str]:
        return self._listing(lambda: self._store.list(prefix, after))

    def entries(self, prefix: str) -> Iterator[Entry]:
        return self._listing(lambda: self._store.entries(prefix))

    def _listing(self, begin: Callable[[], Iterator[T]]) -> Iterator[T]:
        found = False
        with self._timed("list"):
            for each in begin():
                found = True
                yield each
        if not found:
            self._check()

    def presign(
        self, key: str, expires_s: int = 3600, endpoint: str | None = None, filename: str = ""
    ) -> str | None:
        return self._store.presign(key, expires_s, endpoint, filename)

    def where(self, key: str = "") -> str:
        return self._store.where(key)

    def sweep(self) -> int:
        self._allow()
        self._check()
        return self._store.sweep()

    def check(self) -> None:
        self._store.check()

    @contextmanager
    def _timed(self, operation: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        except ConflictError:  # an answer, not a failure
            raise
        except StoreError:
            self._meter.add(catalogue.STORE_ERRORS, operation=operation)
            raise
        finally:
            took = time.monotonic() - began
            self._meter.observe(catalogue.STORE_SECONDS, took, operation=operation)

    def _check(self) -> None:
        if time.monotonic() - self._confirmed >= self._fresh_s:
            self.confirm()
