"""The coordinator: a detached Ray actor that owns the queue, and alone writes what becomes of jobs.

Jobs are in `book`, clips under way in `dispatch`; here is how the one is made of the other. It can
be killed at any time: a new one reads what is open, and goes on from the last checkpoints.
"""

import asyncio
import logging
import os
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any

import svd_engine
from farm.background import Background, News
from farm.coordinator.admission import Admission
from farm.coordinator.dispatcher import Dispatcher
from farm.coordinator.intake import Intake
from farm.coordinator.maintenance import Upkeep
from farm.coordinator.metrics import Metrics
from farm.coordinator.sharing import Sharing
from farm.coordinator.views import progress_of, status_of
from farm.coordinator.webhooks import Webhooks
from farm.errors import JobError, RequestError, StoreError
from farm.model.farm_api import FarmApi, Ready
from farm.model.job import Event, Job, JobView, LogEntry, State, Submission
from farm.model.request import Model, ModelFacts
from farm.ownership.renewal import Ownership, reads, writes
from farm.records.cleanup import clear_orphans
from farm.records.commits import take_fence, unclaim
from farm.records.job_book import Book
from farm.records.pictures import Pictures, list_older
from farm.scheduling.scheduler import Scheduler
from farm.settings import Settings
from farm.store import Store
from farm.store.keys import CHECKPOINTS, step_of
from farm.store.quarantine import Quarantine
from farm.store.retry import retry_until_stored
from farm.workers.cluster import Models, own_actor
from farm.workers.lifeline import end_process, lifeline
from farm.workers.pool import Pool

log = logging.getLogger("farm")

THREADS = 32  # that call the store
PLACED = 100  # jobs at once that are told their place in the queue
KEPT = 10_000  # jobs whose last change is remembered, at least


class Coordinator(FarmApi):
    """The farm's one writer. Calls may be repeated: each can be lost with the process."""

    def __init__(self, settings: Settings, engine: str, store_id: str) -> None:
        """store_id: of the store that it must be, also after a restart."""
        logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
        log.setLevel(logging.INFO)
        self._settings, self._engine = settings, engine
        self._background = Background(THREADS)
        self._models = Models(self._background, settings.load_s)
        self._ownership = Ownership(settings.store, store_id, *own_actor())
        self._store_id, self._store = store_id, self._ownership.store
        self._trouble = ""  # why it has not begun yet
        self._stops: dict[str, asyncio.Task[None]] = {}  # of jobs that are being cancelled
        self._begun = self._background.start(self._begin())

    # Calls

    async def ping(self) -> None:
        """Answered at once by a coordinator that is alive, whatever it is at."""

    async def ready(self) -> Ready:
        """Wait until open jobs are taken over; who and what this is."""
        while not self._begun.done():
            self._ownership.check()
            if self._trouble:
                raise StoreError(f"the farm cannot begin: {self._trouble}")
            await asyncio.wait({self._begun}, timeout=0.5)
        self._begun.result()
        return {
            "version": svd_engine.__version__,
            "numerics": svd_engine.NUMERICS,
            "store": self._settings.store,
            "store_id": self._store_id,
            "fence": self._fence,
            "pid": os.getpid(),
            "max_pixels": self._settings.max_pixels,
        }

    async def describe(self, model: Model) -> ModelFacts:
        """A model's digest and defaults; RequestError where there is no such model."""
        return await self._models.facts(model)

    @writes
    async def submit(self, submission: Submission, picture: bytes) -> JobView:
        """Take a job on: once this returns, it is in the store and will be finished.

        The same submission again (by its id) is the same job. Raises RequestError, QueueFullError,
        StoreError, or JobError where the id is another job's.
        """
        await self.ready()
        digest = await self._intake.digest_of_picture(picture)
        return await self._take_on(submission, digest, picture)

    @writes
    async def submit_stored(self, submission: Submission, digest: str) -> JobView:
        """As `submit`, for a front door, which checks pictures and writes them to the store itself.

        Raises PictureMissingError, once all else is in order, if the store lacks the picture: the
        front door then writes it, and submits again.
        """
        await self.ready()
        return await self._take_on(submission, digest)

    async def _take_on(
        self, submission: Submission, digest: str, picture: bytes | None = None
    ) -> JobView:
        job = await self._intake.job_of(submission, digest)
        with self._admission.room_for(job):
            if submission.idempotency_key is not None:
                job = await self._intake.once(job, submission.idempotency_key)
            async with self._pictures.kept(digest, picture):
                job, new = await self._book.create(job)
        if new:
            await self._sharing.admit(job)
        return await self.show(job.id)

    @reads
    async def check(self, submission: Submission, digest: str) -> tuple[Job, int]:
        """The job that `submit` would make, and how many of its clips are in the store already.

        digest: of a picture that was checked; it need not be in the store.
        """
        await self.ready()
        job = await self._intake.job_of(submission, digest)
        self._admission.check_work(job.request)
        return job, await self._sharing.done_already(job)

    async def find(self, job: str) -> JobView | None:
        """A job, and how far it is; None where there is none."""
        (view,) = await self.find_all([job])
        return view

    @reads
    async def find_all(self, jobs: Sequence[str]) -> list[JobView | None]:
        """As `find`, for several."""
        await self.ready()
        records = await asyncio.gather(*(self._book.read(job) for job in jobs))
        return [None if record is None else self._view(record) for record in records]

    async def show(self, job: str) -> JobView:
        """A job, and how far it is. JobError where there is none."""
        view = await self.find(job)
        if view is None:
            raise JobError(f"there is no job {job!r}")
        return view

    @reads
    async def jobs(self, after: str = "", limit: int = 100, open_only: bool = False) -> list[Job]:
        """Jobs, oldest first: the open ones, or all there ever were, those after id `after`."""
        await self.ready()
        if open_only:
            ids = sorted(job for job in self._book.open if job > after)[:limit]
        else:
            ids = await self._book.ids(after, limit)
        return await self._book.read_all(ids)

    @reads
    async def views(self, tenant: str, after: str, limit: int, newest_first: bool) -> list[JobView]:
        """A tenant's jobs, those that come after id `after`."""
        await self.ready()
        found: list[Job] = []
        of = self._book.ids_of
        while len(found) < limit and (ids := await of(tenant, after, limit, newest_first)):
            after = ids[-1]
            found += await self._book.read_of(tenant, ids)
        return [self._view(job) for job in found[:limit]]

    async def watch(
        self, jobs: Sequence[str], after: int, timeout_s: float = 10.0
    ) -> tuple[int, list[JobView]]:
        """Those of `jobs` that changed after version `after`, and the version now. Waits for some.

        After a restart all jobs count as changed: their versions are above all former ones.
        """
        await self.ready()
        version, ids = await self._news.wait(jobs, after, timeout_s)
        # An ETA is a look at many other jobs: not for thousands at once.
        placed = len(ids) <= PLACED
        return version, [self._view(job, placed) for job in await self._book.read_all(ids)]

    @reads
    async def events(self, job: str, after: int = 0) -> list[LogEntry]:
        """A job's written log from after entry `after` on: at least LOG_PAGE entries, or all."""
        await self.show(job)
        return await self._book.logs.entries(job, after)

    @writes
    async def cancel(self, job: str) -> JobView:
        """Stop a job; back when no worker is at it, with the GPU seconds it took."""
        await self.ready()
        record = await self._book.read(job)
        if record is None or record.state is State.CANCELLED:
            return await self.show(job)
        if job not in self._stops:
            self._stops[job] = self._background.start(self._stop(job))
            self._stops[job].add_done_callback(lambda _: self._stops.pop(job))
        await asyncio.shield(self._stops[job])
        return await self.show(job)

    async def _stop(self, job: str) -> None:
        await self._book.tell(job, Event.CANCEL)
        clips = self._sharing.part(job)
        await asyncio.gather(*(self._dispatcher.cancel(clip) for clip in clips))
        seconds = sum(clip.gpu_seconds for clip in clips)
        spent = self._book.open[job].gpu_seconds + round(seconds, 4)
        await self._book.tell(job, Event.STOPPED, gpu_seconds=spent)

    @writes
    async def delete(self, job: str) -> None:
        """Stop a job, and forget it. Its clips stay: others may ask for the same."""
        await self.ready()
        if job in self._book.open:
            with suppress(JobError):  # finished meanwhile
                await self.cancel(job)
        record = await self._book.read(job)
        if record is not None and record.claim is not None:
            await self._background.call(unclaim, self._store, record.claim, job)
        if record is not None:
            await self._pictures.release(record.request.picture, job)
        await self._book.delete(job)

    @writes
    async def pause(self, job: str) -> JobView:
        """Begin no more of a job's tasks; those under way end, and what they made is kept."""
        await self.ready()
        await self._book.tell(job, Event.PAUSE)
        self._sharing.settle(job)
        return await self.show(job)

    @writes
    async def resume(self, job: str) -> JobView:
        """Go on with a paused job."""
        await self.ready()
        await self._book.tell(job, Event.RESUME)
        self._sharing.settle(job)
        return await self.show(job)

    @writes
    async def set_priority(self, job: str, priority: int) -> JobView:
        """Change an open job's priority (0-100), live."""
        await self.ready()
        if not 0 <= priority <= 100:
            raise RequestError(f"priority: must be from 0 to 100, got {priority}")
        if job not in self._book.open:
            raise JobError(f"{job} is finished, or there is no such job")
        self._book.change(job, priority=priority)
        self._book.log(job, "priority", priority=priority)
        await self._book.save(job)
        self._sharing.settle(job)
        return await self.show(job)

    async def drain(self, worker: str, draining: bool = True) -> dict[str, Any]:
        """Give a worker no more tasks (or some again); it finishes the one it has."""
        await self.ready()
        self._upkeep.drain(worker, draining)
        return await self.status()

    async def status(self) -> dict[str, Any]:
        """Workers and what each does, and how many jobs of each tenant are in which state."""
        ready = await self.ready()
        await self._quarantine.look()
        return {**ready} | status_of(
            self._scheduler,
            self._pool,
            self._book,
            self._quarantine,
            self._sharing.blocked,
            self._ownership.trouble(),
        )

    async def store(self) -> Store:
        """The store itself, for callers in this process; others open it by `ready`."""
        return self._store

    # Beginning

    async def _begin(self) -> None:
        await asyncio.to_thread(lifeline, end_process)
        await self._ownership.take()
        self._background.start(self._for_ever(self._ownership.keep()))
        await retry_until_stored(self._try_start, "the farm cannot begin yet")

    async def _try_start(self) -> None:
        try:
            await self._start()
        except StoreError as error:
            self._trouble = str(error)
            raise

    async def _start(self) -> None:
        settings, background = self._settings, self._background
        self._fence = await asyncio.to_thread(take_fence, self._store)
        older_pictures = await asyncio.to_thread(list_older, self._store)
        self._news = News(self._fence << 32, max(KEPT, 2 * settings.max_jobs))
        self._scheduler = Scheduler(settings.max_gpus)
        self._pool = Pool(
            self._ownership.workers_store,
            self._engine,
            settings.compile,
            settings.load_s,
            lambda *worker: self._upkeep.joined(*worker),
            lambda name, why: self._dispatcher.left(name, why),
        )
        self._quarantine = Quarantine(self._store, background, Metrics().quarantined)
        self._webhooks = Webhooks(settings, self._store, background)
        self._book = Book(
            self._store, background, self._fence, self._news.tell, self._ended, lambda: os._exit(1)
        )
        self._admission = Admission(settings, self._book)
        self._pictures = Pictures(self._store, background, older_pictures)
        self._intake = Intake(
            settings,
            self._store,
            background,
            self._models,
            self._book,
            self._ownership.clock,
        )
        self._sharing = Sharing(
            self._store, background, self._book, self._scheduler, self._news.tell
        )
        self._dispatcher = self._sharing.dispatcher = Dispatcher(
            self._store,
            background,
            self._pool,
            self._scheduler,
            self._sharing,
            self._fence,
            settings.segment_steps,
        )
        self._upkeep = Upkeep(
            settings,
            self._pool,
            self._scheduler,
            self._dispatcher,
            self._sharing,
            self._book,
            self._ownership.clock,
        )
        await self._take_over()
        background.start(self._book.save_recovered())
        background.start(self._book.tenants.complete())
        for loop in (
            self._dispatcher.work(),
            self._book.logs.keep(),
            self._upkeep.keep_workers(),
            self._upkeep.keep_limits(),
            self._webhooks.deliver(),
            self._quarantine.keep_looking(),
            self._pictures.keep_collecting(),
        ):
            background.start(self._for_ever(loop))

    async def _take_over(self) -> None:
        """Go on with the jobs that are open, from their last checkpoints."""
        jobs = await self._book.recover()
        keys = await self._background.call(lambda: list(self._store.list(CHECKPOINTS)))
        steps = dict(sorted(filter(None, map(step_of, keys))))  # the last of each clip
        await self._sharing.take_over([job for job in jobs if job.state.is_open], steps)
        clips = frozenset(self._dispatcher.clips)
        self._background.start(self._background.call(clear_orphans, self._store, keys, clips))

    async def _ended(self, job: Job) -> None:
        if job.state is State.FAILED:
            self._pictures.doubt(job.request.picture)  # it may be what was wrong
        await self._webhooks.owe(job)

    async def _for_ever(self, loop: Coroutine[Any, Any, None]) -> None:
        """End the process should a loop end, rather than stand still: a new one goes on."""
        try:
            await loop
        finally:
            log.critical("a loop of the coordinator has ended", exc_info=True)
            os._exit(1)

    # Telling

    def _view(self, job: Job, placed: bool = True) -> JobView:
        return JobView(job=job, progress=progress_of(job, self._sharing, self._scheduler, placed))
