"""The coordinator: a detached Ray actor that owns the queue and alone changes jobs' states.

Its parts are made in `farm/coordinator/parts.py`; here are the calls that it answers. It can be
killed at any time: the next one reads the open jobs and resumes from their last checkpoints.
"""

import asyncio
import os
from collections.abc import Sequence
from contextlib import suppress
from datetime import date
from typing import Any

import svd_engine
from farm.background import Background
from farm.coordinator.answering import Answering, audited, changes
from farm.coordinator.parts import Parts, make_parts, start_loops, take_over
from farm.coordinator.views import progress_of, status_of
from farm.errors import FarmError, JobError, RequestError, StoreError
from farm.logs import log_to_stderr
from farm.model.farm_api import FarmApi, Ready
from farm.model.job import Event, JobRecord, JobView, LogEntry, State, Submission
from farm.model.request import Model, ModelFacts
from farm.model.retention import Freed
from farm.model.usage import FIRST_DAY, ByDay
from farm.ownership.renewal import Ownership, reads
from farm.records.audit_log import AuditLog
from farm.settings import Settings, known_secrets
from farm.store import Store
from farm.store.retry import retry_until_stored
from farm.workers.ray_runtime import RayRuntime
from farm.workers.runtime import Runtime

THREADS = 32  # that call the store
QUEUE_VIEWS = 100  # jobs at once whose positions in the queue are looked up


class Coordinator(Answering, FarmApi):
    """The farm's one writer. FarmApi documents its calls.

    Callers repeat calls, since each can be lost with the process.
    """

    def __init__(
        self, settings: Settings, engine: str, store_id: str, runtime: Runtime | None = None
    ) -> None:
        """engine: the module whose `Worker` runs tasks, on Ray, unless `runtime` is given.

        store_id: the id that the store must have, also after a restart.
        """
        log_to_stderr(settings.log_format, known_secrets(settings))
        self._settings, self._runtime = settings, runtime or RayRuntime(engine)
        self._background = Background(THREADS, self._runtime.end_process)
        self._models = self._runtime.models(self._background, settings.load_s)
        self._meter = self._runtime.meter()
        self._ownership = Ownership(settings.store, store_id, *self._runtime.owner(), self._meter)
        self._store_id, self._store = store_id, self._ownership.store
        self._audit = AuditLog(self._store, self._background)
        self._background.run_forever(self._audit.keep())
        self._start_error = ""  # why it has not started yet
        self._cancels: dict[str, asyncio.Task[None]] = {}  # of jobs that are being cancelled
        # `_parts` raises its error to every caller.
        self._started = self._background.start(self._start(), handled=(Exception,))

    # Calls

    async def ping(self) -> None:
        """Answer at once, whatever else is being done: the coordinator is alive."""

    async def ready(self) -> Ready:
        parts = await self._parts()
        return {
            "version": svd_engine.__version__,
            "numerics": svd_engine.NUMERICS,
            "store": self._settings.store,
            "store_id": self._store_id,
            "fence": parts.fence,
            "pid": os.getpid(),
            "max_pixels": self._settings.max_pixels,
        }

    async def _parts(self) -> Parts:
        """Wait until open jobs are taken over. Raises StoreError while the store cannot be used."""
        while not self._started.done():
            self._ownership.check()
            if self._start_error:
                raise StoreError(f"the farm cannot start: {self._start_error}")
            await asyncio.wait({self._started}, timeout=0.5)
        return self._started.result()

    async def _tenant_of(self, job: str) -> str:
        record = await (await self._parts()).book.read(job)
        return "" if record is None else record.tenant

    async def describe(self, model: Model) -> ModelFacts:
        return await self._models.facts(model)

    @changes
    async def submit(self, submission: Submission, picture: bytes) -> JobView:
        digest = await (await self._parts()).intake.digest_of_picture(picture)
        return await self._take_on(submission, digest, picture)

    @changes
    async def submit_stored(self, submission: Submission, digest: str) -> JobView:
        return await self._take_on(submission, digest)

    async def _take_on(
        self, submission: Submission, digest: str, picture: bytes | None = None
    ) -> JobView:
        parts = await self._parts()
        job = await parts.intake.job_of(submission, digest)
        with parts.admission.room_for(job):
            if submission.idempotency_key is not None:
                job = await parts.intake.once(job, submission.idempotency_key)
            await parts.quotas.check_room(job)
            async with parts.pictures.kept(digest, picture):
                job, new = await parts.book.create(job)
        if new:
            await parts.sharing.admit(job)
            await parts.quotas.count_job(job)
        return await self.show(job.id)

    @reads
    async def check(self, submission: Submission, digest: str) -> tuple[JobRecord, int]:
        parts = await self._parts()
        job = await parts.intake.job_of(submission, digest)
        parts.admission.check_work(job.request)
        return job, await parts.sharing.done_already(job)

    async def find(self, job: str) -> JobView | None:
        (view,) = await self.find_all([job])
        return view

    @reads
    async def find_all(self, jobs: Sequence[str]) -> list[JobView | None]:
        parts = await self._parts()
        records = await asyncio.gather(*(parts.book.read(job) for job in jobs))
        return [None if record is None else _view(record, parts) for record in records]

    async def show(self, job: str) -> JobView:
        view = await self.find(job)
        if view is None:
            raise JobError(f"There is no job {job!r}")
        return view

    @reads
    async def jobs(
        self, after: str = "", limit: int = 100, open_only: bool = False
    ) -> list[JobRecord]:
        book = (await self._parts()).book
        if open_only:
            ids = sorted(job for job in book.open if job > after)[:limit]
        else:
            ids = await book.ids(after, limit)
        return await book.read_all(ids)

    @reads
    async def views(self, tenant: str, after: str, limit: int, newest_first: bool) -> list[JobView]:
        parts, found = await self._parts(), list[JobRecord]()
        ids_of = parts.book.ids_of
        while len(found) < limit and (ids := await ids_of(tenant, after, limit, newest_first)):
            after = ids[-1]
            found += await parts.book.read_of(tenant, ids)
        return [_view(job, parts) for job in found[:limit]]

    async def watch(
        self, jobs: Sequence[str], after: int, timeout_s: float = 10.0
    ) -> tuple[int, list[JobView]]:
        parts = await self._parts()
        version, ids = await parts.news.wait(jobs, after, timeout_s)
        # A position in the queue depends on many other jobs: thousands at once would take long.
        with_eta = len(ids) <= QUEUE_VIEWS
        return version, [_view(job, parts, with_eta) for job in await parts.book.read_all(ids)]

    @reads
    async def events(self, job: str, after: int = 0) -> list[LogEntry]:
        await self.show(job)
        return await (await self._parts()).book.logs.entries(job, after)

    @changes
    async def cancel(self, job: str) -> JobView:
        parts = await self._parts()
        record = await parts.book.read(job)
        if record is None or record.state is State.CANCELLED:
            return await self.show(job)
        if job not in self._cancels:
            cancel = self._background.start(_cancel(job, parts), handled=(FarmError,))
            self._cancels[job] = cancel
            cancel.add_done_callback(lambda _: self._cancels.pop(job))
        await asyncio.shield(self._cancels[job])
        return await self.show(job)

    @changes
    async def delete(self, job: str) -> None:
        parts = await self._parts()
        if job in parts.book.open:
            with suppress(JobError):  # finished meanwhile
                await self.cancel(job)
        if job in parts.book.open:  # its end is being written
            await parts.book.save_in_background(job)
        record = await parts.book.read(job)
        if record is not None:
            await parts.retention.delete(record)

    @changes
    async def pause(self, job: str) -> JobView:
        parts = await self._parts()
        await parts.book.transition(job, Event.PAUSE)
        parts.sharing.update_urgency(job)
        return await self.show(job)

    @changes
    async def resume(self, job: str) -> JobView:
        parts = await self._parts()
        await parts.book.transition(job, Event.RESUME)
        parts.sharing.update_urgency(job)
        return await self.show(job)

    @changes
    async def set_priority(self, job: str, priority: int) -> JobView:
        parts = await self._parts()
        if not 0 <= priority <= 100:
            raise RequestError(f"priority: must be from 0 to 100, got {priority}")
        if job not in parts.book.open:
            raise JobError(f"{job} is finished, or there is no such job")
        parts.book.update_in_memory(job, priority=priority)
        parts.book.log_event(job, "priority", priority=priority)
        await parts.book.save_in_background(job)
        parts.sharing.update_urgency(job)
        return await self.show(job)

    @reads
    async def usage(self, since: date = FIRST_DAY) -> ByDay:
        return await (await self._parts()).retention.usage(since)

    @reads
    async def garbage(self) -> list[Freed]:
        return await (await self._parts()).retention.garbage()

    @changes
    async def collect_garbage(self) -> list[Freed]:
        return await (await self._parts()).retention.collect()

    @audited
    async def drain(self, worker: str, draining: bool = True) -> dict[str, Any]:
        (await self._parts()).maintenance.drain(worker, draining)
        return await self.status()

    async def status(self) -> dict[str, Any]:
        ready, parts = await self.ready(), await self._parts()
        await parts.quarantine.look()
        return {**ready} | status_of(
            parts.rendering,
            parts.book,
            parts.quarantine,
            parts.sharing.blocked,
            self._ownership.write_error(),
        )

    async def store(self) -> Store:
        """The store itself, for callers in this process; others open it by `ready`."""
        return self._store

    # Start

    async def _start(self) -> Parts:
        await asyncio.to_thread(self._runtime.watch_node)
        await self._ownership.take()
        self._background.run_forever(self._ownership.keep())
        return await retry_until_stored(self._try_to_start, "the farm cannot start yet")

    async def _try_to_start(self) -> Parts:
        try:
            parts = await make_parts(
                self._settings,
                self._runtime,
                self._ownership,
                self._background,
                self._models,
                self._meter,
            )
            await take_over(parts, self._store, self._background)
        except StoreError as error:
            self._start_error = str(error)
            raise
        start_loops(parts, self._background)
        return parts


async def _cancel(job: str, parts: Parts) -> None:
    await parts.book.transition(job, Event.CANCEL)
    clips = parts.sharing.withdraw(job)
    await asyncio.gather(*(parts.rendering.dispatcher.cancel(clip) for clip in clips))
    seconds = sum(clip.gpu_seconds for clip in clips)
    spent = parts.book.open[job].gpu_seconds + round(seconds, 4)
    await parts.book.transition(job, Event.STOPPED, gpu_seconds=spent)


def _view(job: JobRecord, parts: Parts, with_eta: bool = True) -> JobView:
    progress = progress_of(job, parts.sharing, parts.rendering.scheduler, with_eta)
    return JobView(job=job, progress=progress)
