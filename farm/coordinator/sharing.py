"""Which jobs wait for which clip: each is rendered once, however many ask for it."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from farm.background import Background, Recent
from farm.coordinator.clips import Clip
from farm.coordinator.dispatcher import Dispatcher
from farm.errors import StoreError
from farm.model.job import TRANSITIONS, ClipResult, Event, Job, State
from farm.model.request import RenderRequest
from farm.records.job_book import Book
from farm.scheduling.job_queue import Places
from farm.scheduling.scheduler import Scheduler
from farm.scheduling.state import Run, rank_of
from farm.store import Store
from farm.store.keys import answered_key, result_key
from farm.store.quarantine import get_record
from farm.store.retry import retry_until_stored

log = logging.getLogger("farm")

LOOKUPS = 32  # finished clips of a job that are looked for at once
KEPT = 10_000  # results that are remembered


class Sharing:
    """Jobs and the clips under way for them; it is the dispatcher's listener."""

    dispatcher: Dispatcher  # set once it is made, since each needs the other

    def __init__(
        self,
        store: Store,
        background: Background,
        book: Book,
        scheduler: Scheduler,
        changed: Callable[[str], None],
    ) -> None:
        """changed: told of a job that is further than it was."""
        self._store, self._background = store, background
        self._book, self._scheduler = book, scheduler
        self._changed = changed
        self.places = Places()  # of the jobs that wait for clips
        self.blocked = ""  # why no worker is there for them, where it is so
        self._results = Recent[str, ClipResult](KEPT)
        self._answered = Recent[tuple[str, str], None](KEPT)  # clips that a tenant's jobs have had
        self._jobs_of: dict[str, list[str]] = {}  # that wait for a clip under way, first come first
        self._clips_of: dict[str, list[str]] = {}  # the other way round

    async def take_over(self, jobs: Sequence[Job], steps: dict[str, int]) -> None:
        """Admit jobs that a former coordinator left open.

        steps: the last checkpoint of each clip that has any.
        """
        wanted = [_wanted(job) for job in jobs]
        digests = [clip.digest for clips in wanted for clip in clips]
        chunks = await self._background.read_in_chunks(partial(_read_results, self._store), digests)
        results = {digest: result for chunk in chunks for digest, result in chunk}
        await asyncio.gather(
            *(
                self._admit(job, clips, steps, results)
                for job, clips in zip(jobs, wanted, strict=True)
            )
        )

    async def admit(self, job: Job) -> None:
        """Answer a job's clips from the store, share those under way, render the others."""
        await self._admit(job, _wanted(job))

    async def _admit(
        self,
        job: Job,
        wanted: Sequence[RenderRequest],
        steps: dict[str, int] | None = None,
        results: Mapping[str, ClipResult | None] | None = None,
    ) -> None:
        """steps, results: what the store has of the clips, where it was asked."""
        for start in range(0, len(wanted), LOOKUPS):
            batch = wanted[start : start + LOOKUPS]
            if results is None:
                found = await self._look_up(batch, job)
            else:
                found = [results[request.digest] for request in batch]
            if not self._wants_clips(job.id):
                return  # cancelled meanwhile, or another of its clips has failed
            for request, stored in zip(batch, found, strict=True):
                self._admit_clip(job, request, self._fitting(request.digest, stored, job), steps)
        self.settle(job.id)
        if self.blocked and self._clips_of.get(job.id):
            self._book.log(job.id, "blocked", why=self.blocked)
        self._close_if_done(job.id)

    def _admit_clip(
        self,
        job: Job,
        request: RenderRequest,
        result: ClipResult | None,
        steps: dict[str, int] | None,
    ) -> None:
        if result is not None:
            anew = steps is not None and result.finished_at >= job.created_at  # but not written
            self._add_result(job.id, result if anew else _unpaid(result))
            return
        self._jobs_of.setdefault(request.digest, []).append(job.id)
        self._clips_of.setdefault(job.id, []).append(request.digest)
        self._place(job.id)
        if request.digest in self.dispatcher.clips:
            return
        run = Run(request.digest, job.tenant, job.request.weights, job.created_at, job.priority)
        recovered = steps is not None
        clip = Clip(request, job.model, run, job.id, job.force, recovered)
        self.dispatcher.add(clip, (steps or {}).get(request.digest, 0))

    async def done_already(self, job: Job) -> int:
        """How many of a job's clips the store has, and has answered a job of that tenant with.

        What others have rendered is not told.
        """
        done, wanted = 0, job.request.clips()
        for start in range(0, len(wanted), LOOKUPS):
            batch = wanted[start : start + LOOKUPS]
            had = await asyncio.gather(*(self._had(job.tenant, each.digest) for each in batch))
            own = [each for each, there in zip(batch, had, strict=True) if there]
            found = await self._look_up(own, job)
            for request, stored in zip(own, found, strict=True):
                done += self._fitting(request.digest, stored, job) is not None
        return done

    async def _had(self, tenant: str, digest: str) -> bool:
        """Whether a job of the tenant's was answered with the clip."""
        if (tenant, digest) in self._answered:
            return True
        key = answered_key(tenant, digest)
        return await self._background.read(self._store.exists, key)

    async def _remember(self, tenant: str, digest: str) -> None:
        """Write that a job of the tenant's has the clip. Where that fails it is not told later."""
        try:
            await self._background.call(self._store.put, answered_key(tenant, digest), b"")
        except StoreError as error:
            log.warning("%s: cannot write that %s has it: %s", digest[:12], tenant, error)

    def under_way(self, job: str) -> list[Clip]:
        """The clips that a job waits for."""
        return [self.dispatcher.clips[digest] for digest in self._clips_of.get(job, [])]

    async def _look_up(
        self, requests: Sequence[RenderRequest], job: Job
    ) -> list[ClipResult | None]:
        """What there is of each clip, finished, in memory or in the store."""
        return await asyncio.gather(*(self._stored(request.digest, job) for request in requests))

    async def _stored(self, digest: str, job: Job) -> ClipResult | None:
        if digest in self._results or digest in self.dispatcher.clips:
            return self._results.get(digest)
        return await retry_until_stored(
            partial(self._background.read, _read_result, self._store, digest),
            f"{job.id}: its result cannot be looked for yet",
        )

    def _fitting(self, digest: str, stored: ClipResult | None, job: Job) -> ClipResult | None:
        """A finished clip that will do for the job. One under way is for it to share."""
        result = self._results.get(digest, stored)  # it may have finished meanwhile
        if digest in self.dispatcher.clips or result is None:
            return None
        return None if job.force and result.finished_at < job.created_at else result

    def started(self, clip: Clip) -> None:
        """A job runs from the first task of its first clip on."""
        for job in self._jobs_of.get(clip.run.id, []):
            if self._book.open[job].state is State.QUEUED:
                self._book.tell(job, Event.START)

    def progressed(self, clip: Clip) -> None:
        """So are the jobs that wait for it."""
        for job in self._jobs_of.get(clip.run.id, []):
            progress = {"stage": clip.stage, "step": clip.step, "chunks": clip.chunks}
            self._book.log(job, "progress", seed=clip.request.params.seed, **progress)
            self._changed(job)

    def previewed(self, clip: Clip) -> None:
        """Its jobs' logs say so."""
        for job in self._jobs_of.get(clip.run.id, []):
            told = {"seed": clip.request.params.seed, "step": clip.previewed, "clip": clip.run.id}
            self._book.log(job, "preview", **told)

    def tried_again(self, clip: Clip, why: str) -> None:
        """It costs each of its jobs an attempt."""
        for job in self._jobs_of.get(clip.run.id, []):
            self._book.change(job, attempts=self._book.open[job].attempts + 1)
            self._book.log(job, "retry", seed=clip.request.params.seed, why=why)

    def block(self, why: str) -> None:
        """Tell the jobs that wait why no worker is there for them; an empty `why`: there is one."""
        if why == self.blocked:
            return
        self.blocked = why
        for job, clips in self._clips_of.items():
            record = self._book.open.get(job)
            if clips and record and record.state in (State.QUEUED, State.RUNNING):
                if why:
                    self._book.log(job, "blocked", why=why)
                else:
                    self._book.log(job, "unblocked")
                self._changed(job)

    def finished(self, clip: Clip, result: ClipResult) -> None:
        """It is a result of each of its jobs."""
        self._results[clip.run.id] = result
        for number, job in enumerate(self._jobs_of.pop(clip.run.id, [])):
            self._clips_of[job].remove(clip.run.id)
            self._place(job)
            # Who came first pays; to the others it was there.
            self._add_result(job, result if number == 0 else _unpaid(result))
            self._close_if_done(job)
            if self._wants_clips(job):
                self._book.save(job)

    def failed(self, clip: Clip, error: str) -> None:
        """So are its jobs, and clips that nobody else waits for."""
        jobs = self._jobs_of.pop(clip.run.id, [])
        for job in jobs:  # of all of them first: they may share other clips, too
            self._clips_of[job].remove(clip.run.id)
        for number, job in enumerate(jobs):
            if not self._wants_clips(job):
                continue  # it is being cancelled
            spent = self._book.open[job].gpu_seconds + (clip.gpu_seconds if number == 0 else 0)
            self._book.tell(job, Event.FAIL, error=error, gpu_seconds=round(spent, 4))
            for other in self.part(job):
                self.dispatcher.cancel(other)

    def _place(self, job: str) -> None:
        if self._clips_of.get(job):
            record = self._book.open[job]
            self.places.put(job, rank_of(record.created_at, record.priority))
        else:
            self.places.take(job)

    def _add_result(self, job: str, result: ClipResult) -> None:
        record = self._book.open[job]
        had = (record.tenant, result.request.digest)
        if had not in self._answered:
            self._answered[had] = None
            self._background.start(self._remember(*had))
        others = (r for r in record.results if r.request.asked != result.request.asked)
        results = [*others, result]
        results.sort(key=lambda r: r.request.params.seed)
        seconds = dict(record.seconds)
        for stage, spent in result.seconds.items():
            seconds[stage] = round(seconds.get(stage, 0.0) + spent, 4)
        self._book.change(
            job,
            results=tuple(results),
            seconds=seconds,
            gpu_seconds=round(record.gpu_seconds + result.gpu_seconds, 4),
        )

    def _close_if_done(self, job: str) -> None:
        record = self._book.open.get(job)
        done = record is not None and len(record.results) == record.request.num_videos
        if done and self._wants_clips(job):
            self._clips_of.pop(job, None)
            self._book.tell(job, Event.COMPLETE)

    def _wants_clips(self, job: str) -> bool:
        record = self._book.open.get(job)
        return record is not None and (record.state, Event.COMPLETE) in TRANSITIONS

    def part(self, job: str) -> list[Clip]:
        """Take a job from the clips it waits for; those nobody else waits for."""
        alone, digests = [], self._clips_of.pop(job, [])
        self._place(job)
        for digest in digests:
            jobs = self._jobs_of[digest]
            jobs.remove(job)
            if jobs:
                self.settle(jobs[0])
            else:
                del self._jobs_of[digest]
                alone.append(self.dispatcher.clips[digest])
        return alone

    def settle(self, job: str) -> None:
        """A clip goes as its most urgent job wants it, and is held when all of them are paused."""
        self._place(job)
        for clip in self.under_way(job):
            records = [self._book.open[name] for name in self._jobs_of[clip.run.id]]
            priority = max(record.priority for record in records)
            held = all(record.state is State.PAUSED for record in records)
            # It goes on the account of the first that has not stopped waiting.
            owner = next((each for each in records if each.state is not State.PAUSED), records[0])
            if (clip.run.tenant, clip.run.submitted) != (owner.tenant, owner.created_at):
                self._scheduler.give(clip.run, owner.tenant, owner.created_at)
            if clip.run.priority != priority:
                self._scheduler.set_priority(clip.run, priority)
            if clip.run.held != held:
                self._scheduler.hold(clip.run, held)
        self.dispatcher.poke()


def _wanted(job: Job) -> Sequence[RenderRequest]:
    """The clips that a job has not been answered with yet."""
    if not job.results:
        return job.request.clips()
    # Paid for, by a former coordinator; perhaps one of other numerics, as their names say.
    there = {result.request.asked for result in job.results}
    return [request for request in job.request.clips() if request.asked not in there]


def _read_result(store: Store, digest: str) -> ClipResult | None:
    stored = get_record(store, ClipResult, result_key(digest))
    return stored[0] if stored else None


def _read_results(store: Store, digests: Sequence[str]) -> list[tuple[str, ClipResult | None]]:
    return [(digest, _read_result(store, digest)) for digest in digests]


def _unpaid(result: ClipResult) -> ClipResult:
    """A result that cost the job nothing."""
    return result.model_copy(update={"gpu_seconds": 0.0, "seconds": {}})
