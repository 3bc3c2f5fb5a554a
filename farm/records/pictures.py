"""The pictures in the store: each is kept as long as a job names it.

An index of empty objects says which jobs name a picture; the job book writes them before the job's
record. Pictures that are older than the index are in a list, and are kept, because it is not known
which jobs name them.

A client writes a job's picture before it submits the job. If the submission never arrives, no job
names the picture, and `farm/coordinator/retention.py` has it deleted.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress

from pydantic import TypeAdapter, ValidationError

from farm.background import Background
from farm.errors import PictureMissingError, StoreError
from farm.model.request import digest_of
from farm.recent import Recent
from farm.store import Store
from farm.store.keys import (
    OLDER_PICTURES,
    PICTURES,
    job_key,
    picture_key,
    use_key,
    user_of,
    uses_prefix,
)
from farm.store.quarantine import copy_aside

log = logging.getLogger("farm")

DIGESTS = TypeAdapter(set[str])
KEPT = 10_000  # pictures that are remembered


class Pictures:
    """Writes the pictures of jobs, and deletes those that no job names any more."""

    def __init__(self, store: Store, background: Background, older: set[str]) -> None:
        """older: the result of `list_older`."""
        self._older = older
        self._store, self._background = store, background
        self._known = Recent[str, None](KEPT)  # pictures that are in the store
        self._doubted = Recent[str, None](KEPT)  # those whose stored copy may be damaged
        self._wanted = Counter[str]()  # the number of submissions under way, by picture
        self._unsure = set[str]()  # wanted pictures that perhaps no job names
        self._deletions: dict[str, asyncio.Task[bool]] = {}  # under way, by picture

    @asynccontextmanager
    async def kept(self, digest: str, picture: bytes | None = None) -> AsyncIterator[None]:
        """Keep a picture in the store within the context.

        picture: its bytes, to be written if the store lacks them; None if the caller has written
        them. Raises PictureMissingError or StoreError.
        """
        while deletion := self._deletions.get(digest):
            await asyncio.wait({deletion})
        self._wanted[digest] += 1
        try:
            if digest not in self._known:
                await self._secure(digest, picture)
            yield
        except PictureMissingError:
            raise
        except BaseException:
            self._unsure.add(digest)
            raise
        finally:
            self._wanted[digest] -= 1
            if not self._wanted[digest] and digest in self._unsure:
                with suppress(StoreError):  # then the next look at the whole store deletes it
                    await self.delete_unless_named(digest)

    async def _secure(self, digest: str, picture: bytes | None) -> None:
        """Make sure that the store has the picture."""
        doubted = digest in self._doubted
        self._doubted.pop(digest, None)
        if picture is not None:
            await self._background.call(write_picture, self._store, digest, picture)
        elif doubted or not await self._background.call(self._store.exists, picture_key(digest)):
            raise PictureMissingError(f"the picture {digest} is not in the store")
        self._known[digest] = None

    async def size(self, digest: str) -> int:
        """The bytes of a picture in the store; 0 if there is none. Raises StoreError."""
        return await self._background.read(self._store.size, picture_key(digest)) or 0

    def doubt(self, digest: str) -> None:
        """Compare a picture with its stored copy when it is submitted again."""
        self._known.pop(digest, None)
        self._doubted[digest] = None

    async def forget_older(self, digests: Collection[str]) -> None:
        """Let pictures that are older than the index be deleted: no job names them.

        For callers that have read the records of all jobs. Raises StoreError.
        """
        if not self._older.isdisjoint(digests):
            self._older.difference_update(digests)
            data = DIGESTS.dump_json(self._older)
            await self._background.call(self._store.put, OLDER_PICTURES, data)

    async def release(self, digest: str, job: str) -> None:
        """Remove a job that is deleted from the index, and its picture if no other names it.

        Raises StoreError.
        """
        await self._background.call(self._store.delete, use_key(digest, job))
        await self.delete_unless_named(digest)

    async def delete_unless_named(self, digest: str) -> bool:
        """Delete a picture unless a job names it; returns whether it is gone. Raises StoreError."""
        while deletion := self._deletions.get(digest):  # it may have read the index too early
            await asyncio.wait({deletion})
        if self._wanted[digest]:
            self._unsure.add(digest)
            return False
        self._unsure.discard(digest)
        self._known.pop(digest, None)
        deleting = self._background.call(self._delete, digest)
        task = self._background.start(deleting, handled=(StoreError,))
        self._deletions[digest] = task
        task.add_done_callback(lambda _: self._deletions.pop(digest))
        return await asyncio.shield(task)

    def _delete(self, digest: str) -> bool:
        if digest in self._older:
            return False
        for use in list(self._store.list(uses_prefix(digest))):
            job = user_of(use)
            if job is None or self._store.exists(job_key(job)):
                return False
            self._store.delete(use)  # of a submission that was never acknowledged
        self._store.delete(picture_key(digest))
        return True


def list_older(store: Store) -> set[str]:
    """The pictures that are older than the index; the first call for a store writes the list.

    Call it before any picture is written. Raises StoreError.
    """
    stored = store.get(OLDER_PICTURES)
    try:
        if stored is not None:
            return DIGESTS.validate_json(stored.data)
    except ValidationError as error:
        log.warning("%s cannot be read; all pictures are kept: %s", OLDER_PICTURES, error)
    older = {key.removeprefix(PICTURES) for key in store.list(PICTURES)}
    store.put(OLDER_PICTURES, DIGESTS.dump_json(older))
    return older


def write_picture(store: Store, digest: str, picture: bytes) -> None:
    """Write a picture, unless the store has it already. Raises StoreError."""
    key = picture_key(digest)
    there = store.get(key)
    if there is not None and digest_of(there.data) == digest:
        return
    if there is not None:
        copy_aside(store, key, there.data, "its bytes do not match the digest in its name")
    store.put(key, picture)
