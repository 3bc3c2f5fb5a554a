"""Where results live: `open_store(url)` gives a Store for a folder."""

from typing import Protocol
from urllib.parse import unquote, urlsplit

from farm.errors import StoreError
from farm.store.local import LocalStore

__all__ = ["Store", "open_store"]


class Store(Protocol):
    """Objects by key. A key is a relative path with forward slashes."""

    def put(self, key: str, data: bytes) -> None:
        """Write an object; readers see the old one or the new one, whole."""

    def get(self, key: str) -> bytes | None:
        """The object, or None where there is none."""

    def exists(self, key: str) -> bool:
        """Whether there is such an object."""

    def where(self, key: str = "") -> str:
        """The object's place, for people."""


def open_store(url: str) -> Store:
    """A store: a folder, or `file:///folder`. Raises StoreError for what it cannot open."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        return LocalStore(unquote(parts.path))
    if parts.scheme and "://" in url:
        raise StoreError(f"no store for {url!r}: give a folder or file:///folder")
    return LocalStore(url)
