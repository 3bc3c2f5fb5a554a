"""The pictures in the store: each is kept as long as a job names it.

An index says which jobs name a picture: an empty object for each, which the book writes before the
job. Pictures from before there was this index are in a list, and are kept, since nobody knows which
jobs name them.

A front door writes the picture of a job itself, before it submits the job. If the job then never
comes, nothing names the picture, and `keep_collecting` deletes it.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Set
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
    USES,
    job_key,
    picture_key,
    picture_of,
    use_key,
    used_picture,
    user_of,
    uses_prefix,
)
from farm.store.quarantine import copy_aside

log = logging.getLogger("farm")

DIGESTS = TypeAdapter(set[str])
KEPT = 10_000  # pictures that are remembered
COLLECT_S = 3600.0  # between two searches for pictures that no job names


class Pictures:
    """Writes the pictures of jobs, and deletes those that no job names any more."""

    def __init__(self, store: Store, background: Background, older: set[str]) -> None:
        """older: as `list_older` has them."""
        self._older = older
        self._store, self._background = store, background
        self._known = Recent[str, None](KEPT)  # to be in the store
        self._doubted = Recent[str, None](KEPT)  # may be damaged: to be written anew if sent again
        self._wanted = Counter[str]()  # by submissions under way
        self._unsure = set[str]()  # of those, where it may be that no job names them
        self._leaving: dict[str, asyncio.Task[None]] = {}  # that may be deleted just now

    @asynccontextmanager
    async def kept(self, digest: str, picture: bytes | None = None) -> AsyncIterator[None]:
        """Within, the picture is in the store, and stays there. PictureMissingError, StoreError.

        picture: its bytes, to be written if the store lacks them; None where the caller wrote it.
        """
        while leaving := self._leaving.get(digest):
            await asyncio.wait({leaving})
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
                with suppress(StoreError):  # it is left, until a job that names it is forgotten
                    await self._delete_unless_named(digest)

    async def _secure(self, digest: str, picture: bytes | None) -> None:
        """Make sure that the store has the picture."""
        doubted = digest in self._doubted
        self._doubted.pop(digest, None)
        if picture is not None:
            await self._background.call(write_picture, self._store, digest, picture)
        elif doubted or not await self._background.call(self._store.exists, picture_key(digest)):
            raise PictureMissingError(f"the picture {digest} is not in the store")
        self._known[digest] = None

    def doubt(self, digest: str) -> None:
        """Have a picture compared with what is in the store when it is sent again."""
        self._known.pop(digest, None)
        self._doubted[digest] = None

    async def keep_collecting(self) -> None:
        """Delete the pictures that front doors wrote for jobs that never came, for ever."""
        unnamed = set[str]()
        while True:
            unnamed = await self.collect(unnamed)
            await asyncio.sleep(COLLECT_S)

    async def collect(self, earlier: Set[str]) -> set[str]:
        """Delete pictures that no job names, now or earlier; those that no job names now.

        A picture that was written just now is spared, since its job may be on its way.
        """
        try:
            unnamed = await self._background.read(self._unnamed)
            for digest in unnamed & earlier:
                await self._delete_unless_named(digest)
        except StoreError as error:
            log.warning("pictures that no job names cannot be deleted yet: %s", error)
            return set()
        return unnamed - earlier

    def _unnamed(self) -> set[str]:
        # Pictures first: one that is named in between is then not taken for unnamed.
        pictures = {digest for key in self._store.list(PICTURES) if (digest := picture_of(key))}
        uses = {digest for key in self._store.list(USES) if (digest := used_picture(key))}
        return pictures - uses - self._older

    async def release(self, digest: str, job: str) -> None:
        """A job is about to be forgotten; its picture is, where no other names it. StoreError."""
        await self._background.call(self._store.delete, use_key(digest, job))
        await self._delete_unless_named(digest)

    async def _delete_unless_named(self, digest: str) -> None:
        while leaving := self._leaving.get(digest):  # it may have looked too early
            await asyncio.wait({leaving})
        if self._wanted[digest]:
            self._unsure.add(digest)
            return
        self._unsure.discard(digest)
        self._known.pop(digest, None)
        deleting = self._background.call(self._delete, digest)
        task = self._background.start(deleting, handled=(StoreError,))
        self._leaving[digest] = task
        task.add_done_callback(lambda _: self._leaving.pop(digest))
        await asyncio.shield(task)

    def _delete(self, digest: str) -> None:
        if digest in self._older:
            return
        for use in list(self._store.list(uses_prefix(digest))):
            job = user_of(use)
            if job is None or self._store.exists(job_key(job)):
                return
            self._store.delete(use)  # of a submission that was never acknowledged
        self._store.delete(picture_key(digest))


def list_older(store: Store) -> set[str]:
    """The pictures that were in the store before the index; the first call for it finds them.

    To be called before any picture is written. StoreError.
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
    """Write a picture, unless the store has it already. StoreError."""
    key = picture_key(digest)
    there = store.get(key)
    if there is not None and digest_of(there.data) == digest:
        return
    if there is not None:
        copy_aside(store, key, there.data, "its bytes are not those that it is named by")
    store.put(key, picture)
