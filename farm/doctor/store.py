"""Checks of the store. What they write is deleted again."""

import os
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from farm.doctor.check import Context, Findings, failed, ok, unknown, warning
from farm.doctor.machine import existing
from farm.errors import StoreError
from farm.ownership.lease import owner_of
from farm.store import Store, folder_of, open_store
from farm.store.keys import LEASE
from farm.store.local import LocalStore
from farm.store.protocol import RESERVED

PATIENCE_S = 5.0  # how long an S3 server may take to answer
APART_S = 5.0  # between two clocks that are worth a warning
SKEW_S = 900.0  # from which on S3 refuses requests
URL_S = 10.0  # for a download from a signed URL
MOUNT = "Create the folder, mount its disk, or give the user of the farm the right to write there."
now = time.time


def store(context: Context) -> Findings:
    """Whether objects can be written, read, listed, deleted, and compared and swapped."""
    url = context.need_settings().store
    try:
        with _scratch(url) as place:
            place.check()
            where = open_store(url, make=False).where()
            yield ok(
                f"Objects in {where} can be written, read, listed and deleted, and conditional "
                "writes work."
            )
            yield from _owner(url)
    except StoreError as error:
        yield failed(f"The store cannot be used: {error}.", _advice(url))


def signed_urls(context: Context) -> Findings:
    """Whether clients can download from the S3 server by URLs that the farm has signed."""
    settings = context.need_settings()
    public = settings.s3_public_endpoint
    if folder_of(settings.store):
        yield ok("The store is a folder, so clips are downloaded through the farm.")
        return
    try:
        with _scratch(settings.store) as place:
            place.put("probe", b"signed")
            url = place.presign("probe", 60, public)
            fault = _download(url or "", b"signed")
            place.delete("probe")
    except StoreError as error:
        yield unknown(f"No URL was signed, since the store cannot be used: {error}.")
        return
    if not fault:
        yield ok("A signed URL of the S3 server works from this machine.")
    elif public:
        yield failed(
            f"A signed URL does not work at FARM_S3_PUBLIC_ENDPOINT, {public}: {fault}.",
            "Give the URL at which clients reach the S3 server itself: a proxy before it must "
            "keep the Host header, the path and the query.",
        )
    else:
        yield warning(
            f"A signed URL does not work: {fault}.",
            "Nothing needs to be done unless FARM_S3_PUBLIC_ENDPOINT is to be set.",
        )


def clock(context: Context) -> Findings:
    """How far this machine's clock is from that of the store's server."""
    url = context.need_settings().store
    try:
        with _scratch(url) as place:
            before = now()
            theirs = _time_of(place)
            apart = max(before - theirs - 1.0, theirs - now(), 0.0)  # a server may drop fractions
    except StoreError as error:
        yield unknown(f"The clocks were not compared, since the store cannot be used: {error}.")
        return
    text = f"This machine's clock and the store's are {apart:.0f} s apart"
    if apart < APART_S:
        yield ok(f"{text}.")
        return
    advice = "Set the clocks with NTP, as chronyd or systemd-timesyncd do."
    refused = apart >= SKEW_S and not isinstance(place, LocalStore)
    serious = failed if refused else warning
    yield serious(f"{text}{', and S3 refuses requests' if refused else ''}.", advice)


def _owner(url: str) -> Findings:
    """Which farm owns the store, if any has."""
    kept = open_store(url, make=False, patience_s=PATIENCE_S)
    stored = kept.get(LEASE)
    owner = owner_of(stored.data) if stored else None
    yield ok(f"The last farm to own it is {owner}." if owner else "No farm has used it yet.")


@contextmanager
def _scratch(url: str) -> Iterator[Store]:
    """A store in a new place within the store, which is empty and gone at the end."""
    folder = folder_of(url)
    if folder is None:
        place = open_store(f"{url.rstrip('/')}/doctor-{uuid.uuid4().hex}", patience_s=PATIENCE_S)
        try:
            yield place
        finally:
            with suppress(StoreError):  # such as the error that has ended the check
                for key in [*place.list("")]:
                    place.delete(key)
        return
    there = existing(folder)
    try:
        with tempfile.TemporaryDirectory(prefix=f"{RESERVED}doctor-", dir=there) as scratch:
            yield LocalStore(scratch)
    except OSError as error:
        raise StoreError(f"cannot write to {there}: {error.strerror}") from error


def _time_of(place: Store) -> float:
    from farm.store.s3 import S3Store

    if isinstance(place, S3Store):
        return place.server_time()
    if not isinstance(place, LocalStore):
        raise TypeError(f"{place} has no clock")
    place.put("probe", b"")  # a network file system sets the time on its server
    return (place.folder / "probe").stat().st_mtime


def _download(url: str, wanted: bytes) -> str:
    """What is wrong with a signed URL; empty if it gives the object."""
    try:
        with urllib.request.urlopen(url, timeout=URL_S) as answer:  # noqa: S310 - S3's own scheme
            return "" if answer.read() == wanted else "it gives something else"
    except (OSError, ValueError) as error:
        return str(error)


def _advice(url: str) -> str:
    """What to do beyond what the store's own message says."""
    folder: Path | None = None
    with suppress(StoreError):
        folder = folder_of(url)
    if folder is not None:
        return f"{MOUNT} This process runs as the user {os.getuid()}."
    return "See `The store` in deploy/README.md."
