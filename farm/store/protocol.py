"""The interface of a store, which a folder and an S3 bucket implement, and a check of it."""

import uuid
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple, Protocol

from farm.errors import ConditionsError, ConflictError, StoreError

# The prefix of the names that LocalStore needs for itself: no store accepts or lists keys with it.
RESERVED = ".farm-"
NO_ETAG = f'"{"0" * 32}"'  # an etag that no object has


class Stored(NamedTuple):
    """An object's content and version."""

    data: bytes
    etag: str  # an opaque string that identifies this version of the object


class Entry(NamedTuple):
    """What a listing says of an object."""

    key: str
    size: int  # in bytes
    written_at: float  # by the server's clock, in seconds since 1970


class Store(Protocol):
    """A mapping of keys to objects. A key is a relative path with forward slashes.

    No key may be a folder of another key: `a` and `a/b` cannot both be objects. Any number of
    threads and processes may use a store at once. All methods raise StoreError.
    """

    @property
    def url(self) -> str:
        """The URL that `open_store` opens this store by."""

    def put(
        self, key: str, data: bytes, *, if_match: str | None = None, if_none_match: bool = False
    ) -> str:
        """Write a whole object and return its etag, once the write would survive a power cut.

        if_match: write only if the object has this etag. if_none_match: write only if there is no
        such object. Raises ConflictError if the condition does not hold.
        """

    def get(self, key: str) -> Stored | None:
        """Read an object; None if there is no such object."""

    def exists(self, key: str) -> bool:
        """Whether there is an object with this key."""

    def size(self, key: str) -> int | None:
        """The object's size in bytes, without reading it; None if there is no such object."""

    def delete(self, key: str) -> None:
        """Remove an object, if there is one with this key."""

    def list(self, prefix: str, after: str = "") -> Iterator[str]:
        """The keys that begin with `prefix` and sort after `after`, in byte order."""

    def entries(self, prefix: str) -> Iterator[Entry]:
        """Like `list`, with the size and the time of the last write of each object."""

    def presign(
        self, key: str, expires_s: int = 3600, endpoint: str | None = None, filename: str = ""
    ) -> str | None:
        """A URL that lets anyone GET the object; None if the store has no such URLs.

        expires_s: how long the URL works. endpoint: the URL at which clients reach the server, if
        it differs from the farm's. filename: the name to suggest to a client that saves the object.
        """

    def where(self, key: str = "") -> str:
        """The path or URL of an object, or of the store, for messages to people."""

    def sweep(self) -> int:
        """Delete temporary files that killed writers left; returns their number."""

    def check(self) -> None:
        """Write, read, list and delete a small object; StoreError names what does not work."""


def is_key(text: str) -> bool:
    """Whether it is a relative path without an empty part, `.`, `..` or a reserved name."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    parts = text.split("/")
    return "\0" not in text and not any(
        part in ("", ".", "..") or part.startswith(RESERVED) for part in parts
    )


def check_key(key: str) -> str:
    """Return the key if it is one; otherwise raise StoreError."""
    if not is_key(key):
        raise StoreError(
            f"not a key: {key!r}; give a relative path with forward slashes, without '.', '..' "
            f"and names that begin with {RESERVED}"
        )
    return key


def probe(store: Store) -> None:
    """Try every operation of a store on a small object.

    Raises StoreError if one does not work, and ConditionsError if only conditional writes do not.
    """
    key, data = f"probe-{uuid.uuid4().hex}", b"A check of the store left this; it may be deleted."
    etag = store.put(key, data)
    try:
        if store.get(key) != Stored(data, etag):
            raise StoreError(f"{store.where(key)} does not read as it was written")
        if [*store.list(key)] != [key]:
            raise StoreError(f"{store.where(key)} was written, but listing does not show it")
        _probe_conditions(store, key, etag)
    except StoreError:
        with suppress(StoreError):  # the first error says more than this one would
            store.delete(key)
        raise
    store.delete(key)
    if store.exists(key):
        raise StoreError(f"{store.where(key)} was deleted, but is still there")


def _probe_conditions(store: Store, key: str, etag: str) -> None:
    """Try each condition, both where it holds and where it does not; `key` has the etag `etag`."""
    beside = f"{key}-new"
    try:
        faults = [
            _fault(store, "If-None-Match", key, False, if_none_match=True),
            _fault(store, "If-Match", key, False, if_match=NO_ETAG),
            _fault(store, "If-None-Match", beside, True, if_none_match=True),
        ]
    finally:
        with suppress(StoreError):
            store.delete(beside)
    stored = store.get(key)  # a store that ignores a condition has overwritten the object
    faults += [_fault(store, "If-Match", key, True, if_match=stored.etag if stored else etag)]
    named = dict.fromkeys(filter(None, faults))
    if named:
        raise ConditionsError(f"{store.where()} has no conditional writes: {'; '.join(named)}")


def _fault(
    store: Store,
    header: str,
    key: str,
    holds: bool,
    *,
    if_match: str | None = None,
    if_none_match: bool = False,
) -> str:
    """What is wrong with a conditional write; empty if it behaved as it should.

    holds: whether the condition holds, and the write should therefore succeed.
    """
    try:
        store.put(key, b"", if_match=if_match, if_none_match=if_none_match)
    except ConflictError:
        return f"it refuses writes whose {header} holds" if holds else ""
    except StoreError as error:
        store.put(key, b"")  # if this fails too, the condition was not the cause
        return f"it does not accept {header} ({error})"
    return "" if holds else f"it ignores {header}"
