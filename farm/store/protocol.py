"""What a store promises, whatever it stands on."""

import uuid
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple, Protocol

from farm.errors import ConditionsError, ConflictError, StoreError

# Names the folder store needs for itself: no key has them, on any store, and no listing.
RESERVED = ".farm-"
NO_ETAG = f'"{"0" * 32}"'  # of no object


class Stored(NamedTuple):
    """An object as it was read."""

    data: bytes
    etag: str  # opaque; names this version of the object


class Store(Protocol):
    """Objects by key. A key is a relative path with forward slashes.

    No key may be a folder of another: `a` and `a/b` are not both objects. Any number of threads
    and processes may use a store at once. All methods raise StoreError.
    """

    @property
    def url(self) -> str:
        """Opens this store again: `open_store(store.url)`."""

    def put(
        self, key: str, data: bytes, *, if_match: str | None = None, if_none_match: bool = False
    ) -> str:
        """Write an object, whole; returns its etag once it would outlast a power cut.

        if_match: only over that version; if_none_match: only where there is none. ConflictError
        otherwise.
        """

    def get(self, key: str) -> Stored | None:
        """The object, or None where there is none."""

    def exists(self, key: str) -> bool:
        """Whether there is such an object."""

    def size(self, key: str) -> int | None:
        """The object's bytes, or None where there is none; it is not read."""

    def delete(self, key: str) -> None:
        """Remove the object; nothing happens where there is none."""

    def list(self, prefix: str, after: str = "") -> Iterator[str]:
        """The keys that begin with `prefix` and come after `after`, in byte order."""

    def presign(
        self, key: str, expires_s: int = 3600, endpoint: str | None = None, filename: str = ""
    ) -> str | None:
        """A URL that anybody can GET for that long; None where the store has no such thing.

        endpoint: the server's URL, where clients know it by another. filename: what the object is
        to be called where it is saved.
        """

    def where(self, key: str = "") -> str:
        """The object's place, for people."""

    def sweep(self) -> int:
        """Delete what writers that were killed left behind; how many objects that were."""

    def check(self) -> None:
        """StoreError, saying which, unless it can be written, read, listed and deleted from."""


def is_key(text: str) -> bool:
    """Whether it is a relative path: no empty part, no `.` or `..`, no reserved name."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    parts = text.split("/")
    return "\0" not in text and not any(
        part in ("", ".", "..") or part.startswith(RESERVED) for part in parts
    )


def check_key(key: str) -> str:
    """The key; StoreError where it is none."""
    if not is_key(key):
        raise StoreError(
            f"not a key: {key!r}; give a relative path with forward slashes, without '.', '..' "
            f"and names in {RESERVED}*"
        )
    return key


def probe(store: Store) -> None:
    """Do once, with a small object, all that a store promises; StoreError for what it does not.

    ConditionsError where it can be written, and does not keep the conditions of writes.
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
        with suppress(StoreError):  # the first thing that is wrong says more
            store.delete(key)
        raise
    store.delete(key)
    if store.exists(key):
        raise StoreError(f"{store.where(key)} was deleted, and is still there")


def _probe_conditions(store: Store, key: str, etag: str) -> None:
    """Write over an object whose etag is known, and beside it, under every condition there is."""
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
    stored = store.get(key)  # what ignores a condition has written over it
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
    """What is wrong with a write under a condition that holds, or that does not; or nothing."""
    try:
        store.put(key, b"", if_match=if_match, if_none_match=if_none_match)
    except ConflictError:
        return f"it refuses writes whose {header} holds" if holds else ""
    except StoreError as error:
        store.put(key, b"")  # where this fails too, it is not for the condition
        return f"it does not take {header} ({error})"
    return "" if holds else f"it ignores {header}"
