"""The farm's persistent storage: `open_store(url)` opens a folder or an S3 bucket as a Store."""

import os
import re
from pathlib import Path
from urllib.parse import unquote_to_bytes

from farm.errors import StoreError
from farm.store.known import IDENTITY, KnownStore, identify
from farm.store.local import LocalStore
from farm.store.protocol import Store, Stored, is_key

__all__ = [
    "IDENTITY",
    "KnownStore",
    "Store",
    "Stored",
    "folder_of",
    "identify",
    "is_key",
    "open_store",
    "split_s3",
]

USAGE = "give a folder, file:///folder or s3://bucket/prefix"


def open_store(url: str, *, make: bool = True, patience_s: float | None = None) -> Store:
    """Open a store by its URL: a folder, `file:///folder` or `s3://bucket/prefix`.

    make: create the folder if it does not exist. patience_s: how long to retry while an S3 server
    does not answer; by default S3Store's PATIENCE_S. Opening an S3 store sends no request.
    Raises StoreError for a URL that is none of these, and for a folder that cannot be used.
    """
    if not url.strip():
        raise StoreError(f"no store for {url!r}: {USAGE}")
    if url.startswith("arn:"):
        raise StoreError(f"no store for {url!r}: give s3://{url}, with a prefix if you like")
    scheme = re.match(r"(?i:(file|s3):|([a-z][a-z0-9+.-]*)://)", url)
    if scheme is None:
        return LocalStore(url, make=make)
    if scheme[0].lower() == "file:":
        return LocalStore(_folder(url), make=make)
    if scheme[0].lower() == "s3:":
        from farm.store.s3 import S3Store  # boto3 is slow to load, and a folder needs none of it

        return S3Store(url) if patience_s is None else S3Store(url, patience_s)
    raise StoreError(f"no store for {url!r}: {USAGE}")


def folder_of(url: str) -> Path | None:
    """The folder of a store; None if it is not one. Raises StoreError as `open_store` does."""
    store = open_store(url, make=False)
    return store.folder if isinstance(store, LocalStore) else None


def split_s3(url: str) -> tuple[str, str]:
    """Split an `s3://` URL into the URL of its bucket and the rest of the path.

    A bucket may be named by an ARN, which may contain slashes. Raises StoreError if the URL names
    no bucket.
    """
    from farm.store.s3_urls import split_bucket

    bucket, rest = split_bucket(url.partition("://")[2])
    if not bucket:
        raise StoreError(f"no bucket in {url!r}: {USAGE}")
    return f"s3://{bucket}", rest


def _folder(url: str) -> str:
    """The path in a URL `file:///folder` or `file:/folder`."""
    path = re.fullmatch(r"(?i:file:(?://(?:localhost)?)?)(/(?!/).*)", url, re.DOTALL)
    if path is None:
        raise StoreError(f"no folder in {url!r}: give file:///folder, without a host")
    return os.fsdecode(unquote_to_bytes(path[1]))
