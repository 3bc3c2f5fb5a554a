"""A store that is known by its id, so that another one in its place is never taken for it.

A folder that was moved, a mount that is gone and a bucket that was emptied all look like a new
store. The id, written once, tells them apart: without it nothing is written, and nothing is said
to be missing.
"""

import time
import uuid
from collections.abc import Callable, Iterator

from pydantic import BaseModel, ValidationError

from farm.errors import ConflictError, StoreError, VanishedError
from farm.store.local import LocalStore
from farm.store.protocol import Store, Stored

IDENTITY = "store.json"
LATELY_S = 15.0
FRESH_S = 1.0  # for which an answer of a server is good; a folder is always asked


class Identity(BaseModel):
    """What `store.json` holds."""

    id: str


def identify(store: Store) -> str:
    """The store's id, given to it where it has none. StoreError."""
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
            f"{store.where(IDENTITY)} is not readable as the store's id: put the right one back; "
            "if it is lost, delete it, and the farm's next start writes a new one"
        ) from error


class KnownStore:
    """A store as long as it is the one with that id; else every call raises VanishedError."""

    def __init__(
        self, store: Store, store_id: str, allow: Callable[[], None] = lambda: None
    ) -> None:
        """allow: called before each write, and raises where it must not be."""
        self._store, self._id, self._allow = store, store_id, allow
        self._fresh_s = 0.0 if isinstance(store, LocalStore) else FRESH_S
        self._confirmed = -FRESH_S
        self._failed: tuple[StoreError, float] | None = None

    def __reduce__(self) -> tuple[type["KnownStore"], tuple[Store, str]]:
        return KnownStore, (self._store, self._id)  # another process asks nobody before it writes

    @property
    def url(self) -> str:
        return self._store.url

    def confirm(self) -> None:
        """Look now whether it is the store that it was; VanishedError, or StoreError."""
        asked = time.monotonic()
        found = _read(self._store)
        if found != self._id:
            what = "is empty or gone" if found is None else "is another store"
            raise VanishedError(
                f"the store {self._store.where()} {what}: it has not the id {self._id} in "
                f"{IDENTITY}. Bring the folder, mount or bucket back, and the farm goes on; "
                "nothing was written in its place",
                reason="it is not where it was",
            )
        self._confirmed = asked

    def failure(self) -> StoreError | None:
        """Of a write just now, as of one that is tried again and again."""
        failed = self._failed
        return failed[0] if failed and time.monotonic() - failed[1] < LATELY_S else None

    def put(
        self, key: str, data: bytes, *, if_match: str | None = None, if_none_match: bool = False
    ) -> str:
        self._allow()
        self._check()
        try:
            return self._store.put(key, data, if_match=if_match, if_none_match=if_none_match)
        except ConflictError:
            raise
        except StoreError as error:
            self._failed = error, time.monotonic()
            raise

    def get(self, key: str) -> Stored | None:
        stored = self._store.get(key)
        if stored is None:
            self._check()  # nothing is missing from a store that is not there
        return stored

    def exists(self, key: str) -> bool:
        found = self._store.exists(key)
        if not found:
            self._check()
        return found

    def size(self, key: str) -> int | None:
        size = self._store.size(key)
        if size is None:
            self._check()
        return size

    def delete(self, key: str) -> None:
        self._allow()
        self._check()
        self._store.delete(key)

    def list(self, prefix: str, after: str = "") -> Iterator[str]:
        found = False
        for key in self._store.list(prefix, after):
            found = True
            yield key
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

    def _check(self) -> None:
        if time.monotonic() - self._confirmed >= self._fresh_s:
            self.confirm()
