"""The pictures in the store: each is kept as long as a job names it.

Which jobs name it is an index: an empty object for each, written by the book before the job. The
pictures that were there before this index are in a list; who knows which jobs of older farms name
them: they are kept.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from pydantic import TypeAdapter, ValidationError

from farm.background import Background, Recent
from farm.errors import StoreError
from farm.model.request import digest_of
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
        """older: as `list_older` has them."""
        self._older = older
        self._store, self._background = store, background
        self._known = Recent[str, None](KEPT)  # to be in the store
        self._wanted = Counter[str]()  # by submissions under way
        self._unsure = set[str]()  # of those, where it may be that no job names them
        self._leaving: dict[str, asyncio.Task[None]] = {}  # that may be deleted just now

    @asynccontextmanager
    async def kept(self, digest: str, picture: bytes) -> AsyncIterator[None]:
        """Within, the picture is in the store, and stays there. StoreError."""
        while leaving := self._leaving.get(digest):
            await asyncio.wait({leaving})
        self._wanted[digest] += 1
        try:
            if digest not in self._known:
                await self._background.call(_write, self._store, digest, picture)
                self._known[digest] = None
            yield
        except BaseException:
            self._unsure.add(digest)
            raise
        finally:
            self._wanted[digest] -= 1
            if not self._wanted[digest] and digest in self._unsure:
                with suppress(StoreError):  # it is left, until a job that names it is forgotten
                    await self._delete_unless_named(digest)

    def doubt(self, digest: str) -> None:
        """Look anew whether a picture is in the store, when it is sent again."""
        self._known.pop(digest, None)

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
        self.doubt(digest)
        task = self._background.start(self._background.call(self._delete, digest))
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


def _write(store: Store, digest: str, picture: bytes) -> None:
    """Write a picture, unless the store has it."""
    key = picture_key(digest)
    there = store.get(key)
    if there is not None and digest_of(there.data) == digest:
        return
    if there is not None:
        copy_aside(store, key, there.data, "its bytes are not those that it is named by")
    store.put(key, picture)
