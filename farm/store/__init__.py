"""Where things last: `open_store(url)` gives a Store, for a folder or for S3."""

import os
import re
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
    "identify",
    "is_key",
    "open_store",
    "split_s3",
]

USAGE = "give a folder, file:///folder or s3://bucket/prefix"


def open_store(url: str, *, make: bool = True, patience_s: float | None = None) -> Store:
    """A store: a folder, `file:///folder` or `s3://bucket/prefix`; the latter asks nobody yet.

    make: the folder, where there is none. patience_s: with a server that is away, where it is not
    to be the usual one. Raises StoreError for what it cannot open.
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


def split_s3(url: str) -> tuple[str, str]:
    """The URL of an `s3://` URL's bucket, and the rest of it. StoreError where it names no bucket.

    The name of a bucket may be an ARN, which has slashes.
    """
    from farm.store.s3 import split_bucket

    bucket, rest = split_bucket(url.partition("://")[2])
    if not bucket:
        raise StoreError(f"no bucket in {url!r}: {USAGE}")
    return f"s3://{bucket}", rest


def _folder(url: str) -> str:
    """The path of `file:///folder` or `file:/folder`."""
    path = re.fullmatch(r"(?i:file:(?://(?:localhost)?)?)(/(?!/).*)", url, re.DOTALL)
    if path is None:
        raise StoreError(f"no folder in {url!r}: give file:///folder, without a host")
    return os.fsdecode(unquote_to_bytes(path[1]))
