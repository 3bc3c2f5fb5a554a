"""Deletion of jobs, and of what no job names: when asked, and regularly."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import date
from functools import partial
from itertools import groupby

from farm.background import Background
from farm.clock import Clock, utc_day
from farm.coordinator.dispatcher import Dispatcher
from farm.coordinator.finished_clips import FinishedClips
from farm.coordinator.intake import Intake
from farm.errors import JobError, StoreError
from farm.model.job import ClipResult, JobRecord
from farm.model.retention import (
    Freed,
    Inventory,
    Item,
    Kind,
    Policy,
    bytes_by_tenant,
    facts_of,
    freed,
    plan,
)
from farm.model.usage import FIRST_DAY, ByDay
from farm.records.cleanup import clear
from farm.records.commits import unclaim
from farm.records.inventory import Known, take_inventory
from farm.records.job_book import JobBook
from farm.records.pictures import Pictures
from farm.records.salvage import read_job
from farm.records.usage_log import merge_deleted, note_deleted, read_usage
from farm.store import Store
from farm.store.keys import clip_of_attempt, result_key
from farm.store.quarantine import get_record

log = logging.getLogger("farm")

FIRST_S = 300.0  # from the coordinator's start to the first look at the whole store
LOOK_S = 3600.0  # between two looks
LANES = 16  # deletions at once
SLACK_S = 3600.0  # that the clocks of this machine and of the store's may differ
FAILED_BATCHES = 3  # of deletions, one after another: then the store is down


class Retention:
    """Deletes jobs, and with each what no other job names. What an open job needs always stays.

    Jobs and objects come and go while the store is listed and while its garbage is deleted, so each
    deletion checks once more that nothing names the object.
    """

    def __init__(
        self,
        policy: Policy,
        store: Store,
        background: Background,
        clock: Clock,
        book: JobBook,
        pictures: Pictures,
        finished: FinishedClips,
        dispatcher: Dispatcher,
        intake: Intake,
    ) -> None:
        self._policy, self._store, self._background = policy, store, background
        self._clock, self._book, self._pictures = clock, book, pictures
        self._finished, self._dispatcher, self._intake = finished, dispatcher, intake
        self._known: Known = {}
        self._looking = asyncio.Lock()  # `_known` is for one thread at a time
        self._collecting: asyncio.Task[list[Freed]] | None = None

    async def delete(self, job: JobRecord) -> None:
        """Delete a job that is not open, and its picture and clips if no other job names them.

        Raises JobError if it is open, and StoreError; what is left then is deleted by a later
        `collect`.
        """
        if job.state.is_open:
            raise JobError(f"{job.id} is {job.state}: it cannot be deleted")
        await self._delete_job(job)
        await self._pictures.release(job.request.picture, job.id)
        for result in job.results:
            await self._delete_clip(result.clip, result, checked=False)

    async def usage(self, since: date = FIRST_DAY) -> ByDay:
        """What tenants used from a day on, in jobs that have ended. Raises StoreError."""
        return await self._background.read(read_usage, self._store, self._read, since)

    async def garbage(self) -> list[Freed]:
        """What `collect` would delete now. Raises StoreError."""
        return freed(await self._plan())

    async def stored_bytes(self) -> dict[str, int]:
        """What each tenant's jobs take up, with their clips and pictures. Raises StoreError."""
        return await self._background.read(bytes_by_tenant, await self._inventory())

    async def collect(self) -> list[Freed]:
        """Delete what is past keeping, and what no job names; returns what was deleted.

        Calls at the same time share one collection. Raises StoreError.
        """
        if self._collecting is None or self._collecting.done():
            self._collecting = self._background.start(self._collect(), handled=(StoreError,))
        return await asyncio.shield(self._collecting)

    async def keep(self) -> None:
        """Collect regularly, for ever."""
        await asyncio.sleep(FIRST_S)
        while True:
            try:
                for each in await self.collect():
                    log.info(
                        "deleted %d of kind %s of tenant %r: %d bytes",
                        *(each.items, each.kind, each.tenant, each.bytes),
                    )
            except StoreError as error:
                log.warning("old objects cannot be deleted yet: %s", error)
            await asyncio.sleep(LOOK_S)

    async def _inventory(self) -> Inventory:
        async with self._looking:
            return await self._background.read(take_inventory, self._store, self._read, self._known)

    async def _plan(self) -> list[Item]:
        inventory = await self._inventory()
        # A clock that jumped forward must not make jobs look old. The lease was just written, and
        # its time is the server's.
        now = min(self._clock.now(), self._clock.wall(), inventory.lease_at + SLACK_S)
        return await self._background.read(plan, inventory, self._policy, now)

    def _read(self, job: str) -> JobRecord | None:
        """A job's record; called in threads. The store's is not repaired while the job is open."""
        if (there := self._book.open.get(job)) is not None:
            return there
        found = read_job(self._store, job)
        return found[0] if found else None

    async def _collect(self) -> list[Freed]:
        deletions: dict[Kind, Callable[[Item], Awaitable[bool]]] = {
            Kind.JOB: self._delete_expired,
            Kind.CLIP: self._delete_unnamed_clip,
            Kind.ARTIFACT: self._delete_unless_rendered,
            Kind.PICTURE: lambda item: self._pictures.delete_unless_named(item.name),
            Kind.CHECKPOINT: self._delete_unless_rendered,
            Kind.CLAIM: lambda item: self._intake.forget_claim(item.name),
            Kind.LEFTOVER: lambda item: self._book.delete_leftovers(
                item.name, [entry.key for entry in item.entries]
            ),
        }
        planned, deleted = await self._plan(), list[Item]()
        pictures = [item.name for item in planned if item.kind is Kind.PICTURE]
        await self._pictures.forget_older(pictures)
        failed = 0  # batches without a success since the last with one
        for kind, group in groupby(planned, key=lambda item: item.kind):
            items = list(group)
            for start in range(0, len(items), LANES):
                batch = items[start : start + LANES]
                gone = await asyncio.gather(*(_attempt(deletions[kind], item) for item in batch))
                deleted += (
                    item for item, is_gone in zip(batch, gone, strict=True) if is_gone is True
                )
                errors = [each for each in gone if isinstance(each, StoreError)]
                failed = failed + 1 if len(errors) == len(batch) else 0
                if failed == FAILED_BATCHES:
                    raise errors[0]
        await self._background.call(merge_deleted, self._store, utc_day(self._clock.now()))
        await self._background.call(self._store.sweep)
        return freed(deleted)

    async def _delete_expired(self, item: Item) -> bool:
        job, known = await self._book.read(item.name), self._known.get(item.name)
        # Meanwhile it may have been deleted, and submitted again.
        if job is None or known is None or facts_of(job) != known[1]:
            return False
        await self._delete_job(job)
        return True

    async def _delete_job(self, job: JobRecord) -> None:
        if job.claim is not None:
            await self._background.call(unclaim, self._store, job.claim, job.id)
        await self._background.call(note_deleted, self._store, job)
        await self._book.delete(job.id)
        await self._finished.leave(job)

    async def _delete_unnamed_clip(self, item: Item) -> bool:
        stored = await self._background.read(
            get_record, self._store, ClipResult, result_key(item.name)
        )
        return await self._delete_clip(item.name, stored[0] if stored else None, checked=True)

    async def _delete_clip(
        self, clip: str | None, result: ClipResult | None, checked: bool
    ) -> bool:
        if clip is None:
            return False
        return await self._finished.delete(clip, partial(self._is_wanted, clip, result), checked)

    async def _delete_unless_rendered(self, item: Item) -> bool:
        """Delete an attempt's artifacts, or a clip's checkpoints."""
        if (clip_of_attempt(item.name) or item.name) in self._dispatcher.clips:
            return False
        await self._background.call(clear, self._store, [entry.key for entry in item.entries])
        return True

    def _is_wanted(self, clip: str, result: ClipResult | None) -> bool:
        """Whether an open job has the clip, or waits for it."""
        if clip in self._dispatcher.clips:
            return True
        result = result or self._finished.in_memory(clip)
        if result is None:
            return False
        jobs = self._book.open.of_picture(result.request.picture)
        return any(job.wants(result.request) for job in jobs)


async def _attempt(delete: Callable[[Item], Awaitable[bool]], item: Item) -> bool | StoreError:
    """Delete an item; an object that cannot be deleted keeps no others from it."""
    try:
        return await delete(item)
    except StoreError as error:
        log.warning("%s %s cannot be deleted: %s", item.kind, item.name, error)
        return error
