"""Which jobs wait for which clips: each clip is rendered once, however many ask for it."""

import asyncio
from collections.abc import Callable, Container, Mapping, Sequence

from farm.coordinator.clips import (
    Clip,
    ClipEvent,
    Failed,
    Finished,
    Previewed,
    Progressed,
    Retried,
    Started,
)
from farm.coordinator.dispatcher import Dispatcher
from farm.coordinator.finished_clips import FinishedClips
from farm.model.job import TRANSITIONS, ClipResult, Event, JobRecord, State
from farm.model.request import RenderRequest
from farm.model.trail import trail_of
from farm.records.job_book import JobBook
from farm.scheduling.job_queue import JobQueue
from farm.scheduling.state import Urgency

LOOKUPS = 32  # finished clips of a job that are looked up at once


class Sharing:
    """Answers jobs with clips: finished ones from the store, others as they are rendered."""

    def __init__(
        self,
        book: JobBook,
        dispatcher: Dispatcher,
        finished: FinishedClips,
        publish: Callable[[str], None],
    ) -> None:
        """publish: called with the id of a job whose progress has changed."""
        self.dispatcher = dispatcher
        self.queue = JobQueue()  # of the jobs that wait for clips
        self.blocked = ""  # why no worker can take them; empty if one can
        self.held: Mapping[str, str] = {}  # why the jobs of tenants wait for another day
        self._book, self._publish = book, publish
        self._finished = finished
        self._clips_of: dict[str, list[Clip]] = {}  # the clips that each job waits for

    # Jobs come and go

    async def take_over(self, jobs: Sequence[JobRecord], steps: Mapping[str, int]) -> None:
        """Admit jobs that an earlier coordinator left open.

        steps: the last checkpoint of each clip that has any.
        """
        missing = [job.missing_clips() for job in jobs]
        digests = [request.digest for requests in missing for request in requests]
        results = await self._finished.read_all(digests)
        for job, requests in zip(jobs, missing, strict=True):
            if requests and not self._wants_clips(job.id):
                continue  # it is being cancelled
            for request in requests:
                stored = results[request.digest]
                result = self._usable(request.digest, stored, job)
                # A result that is newer than the job was rendered for it, and is charged to it.
                own = result is not None and result.finished_at >= job.created_at
                if result is not None:
                    self._add_result(job.id, result if own else result.free_of_charge())
                else:
                    self._wait_for(job, request, steps.get(request.digest, 0), recovered=True)
            self._complete_admission(job)

    async def admit(self, job: JobRecord) -> None:
        """Answer a job's clips from the store, share those under way, render the others."""
        missing = job.missing_clips()
        for start in range(0, len(missing), LOOKUPS):
            requests = missing[start : start + LOOKUPS]
            found = await self._look_up(requests)
            if not self._wants_clips(job.id):
                return  # cancelled meanwhile, or another of its clips has failed
            for request, stored in zip(requests, found, strict=True):
                result = self._usable(request.digest, stored, job)
                if result is not None:
                    self._add_result(job.id, result.free_of_charge())
                else:
                    self._wait_for(job, request)
        self._complete_admission(job)

    def withdraw(self, job: str) -> list[Clip]:
        """Let a job wait for no more clips; returns those that no other job waits for."""
        unwanted, clips = [], self._clips_of.pop(job, [])
        self._update_place(job)
        for clip in clips:
            clip.jobs.remove(job)
            if clip.jobs:
                self._update_clip(clip)
            else:
                unwanted.append(clip)
        return unwanted

    def update_urgency(self, job: str) -> None:
        """Reschedule a job's clips after its priority changed, or it was paused or resumed."""
        self._update_place(job)
        for clip in self.under_way(job):
            self._update_clip(clip)

    def set_blocked(self, why: str) -> None:
        """Report to waiting jobs why no worker can take them; an empty `why` means that one can."""
        if why == self.blocked:
            return
        self.blocked = why
        for job, clips in self._clips_of.items():
            record = self._book.open.get(job)
            if clips and record and record.state in (State.QUEUED, State.RUNNING):
                self._log_blocked(job, why)

    def set_held(self, held: Mapping[str, str]) -> None:
        """Start no more tasks for the jobs of some tenants; `held` has the reason for each."""
        changed, self.held = self.held.keys() ^ held.keys(), held
        for job in list(self._clips_of) if changed else ():
            record = self._book.open.get(job)
            if record and record.tenant in changed:
                self.update_urgency(job)
                self._log_blocked(job, held.get(record.tenant, ""))

    def _log_blocked(self, job: str, why: str) -> None:
        if why:
            self._book.log_event(job, "blocked", why=why)
        else:
            self._book.log_event(job, "unblocked")
        self._publish(job)

    # Views

    def why_blocked(self, job: JobRecord) -> str:
        """Why no worker takes a job that waits; empty if one can."""
        return self.held.get(job.tenant) or self.blocked

    def under_way(self, job: str) -> list[Clip]:
        """The clips that a job waits for."""
        return list(self._clips_of.get(job, ()))

    async def done_already(self, job: JobRecord) -> int:
        """How many of a job's clips are finished, and have answered jobs of its tenant.

        Other tenants' clips are not counted, because a tenant must not learn what others render.
        """
        done, wanted = 0, job.request.clips()
        for start in range(0, len(wanted), LOOKUPS):
            batch = wanted[start : start + LOOKUPS]
            had = await asyncio.gather(
                *(self._finished.was_answer(job.tenant, each.digest) for each in batch)
            )
            own = [each for each, there in zip(batch, had, strict=True) if there]
            found = await self._look_up(own)
            for request, stored in zip(own, found, strict=True):
                done += self._usable(request.digest, stored, job) is not None
        return done

    # Events of clips

    def apply(self, event: ClipEvent) -> None:
        """Pass an event of a clip on to the jobs that wait for it."""
        match event:
            case Finished(clip, result):
                self._finish(clip, result)
            case Failed(clip, error):
                self._fail(clip, error)
            case Started() | Progressed() | Previewed() | Retried():
                for job in event.clip.jobs:
                    self._pass_on(job, event)

    def _pass_on(self, job: str, event: Started | Progressed | Previewed | Retried) -> None:
        clip, record = event.clip, self._book.open[job]
        seed = clip.request.params.seed
        match event:
            case Started():
                if record.state is State.QUEUED:
                    self._book.transition(job, Event.START)
            case Progressed():
                progress = {"stage": clip.stage, "step": clip.step, "chunks": clip.chunks}
                self._book.log_event(job, "progress", seed=seed, **progress)
                self._publish(job)
            case Previewed():
                self._book.log_event(job, "preview", seed=seed, step=clip.previewed, clip=clip.id)
            case Retried():
                self._book.update_in_memory(job, attempts=record.attempts + 1)
                self._book.log_event(job, "retry", seed=seed, why=event.why)

    def _finish(self, clip: Clip, result: ClipResult) -> None:
        self._finished.add(result)
        for number, job in enumerate(self._release(clip)):
            # The job that asked first is charged; for the others it counts as already finished.
            self._add_result(job, result if number == 0 else result.free_of_charge())
            self._close_if_done(job)
            if self._wants_clips(job):
                self._book.save_in_background(job)

    def _fail(self, clip: Clip, error: str) -> None:
        """Fail the jobs that wait for a clip, and cancel clips that only they wait for."""
        for number, job in enumerate(self._release(clip)):
            if not self._wants_clips(job):
                continue  # it is being cancelled
            spent = self._book.open[job].gpu_seconds + (clip.gpu_seconds if number == 0 else 0)
            self._book.transition(job, Event.FAIL, error=error, gpu_seconds=round(spent, 4))
            for other in self.withdraw(job):
                self.dispatcher.cancel(other)

    def _release(self, clip: Clip) -> list[str]:
        """Detach all jobs from a clip that has ended, and return them."""
        jobs, clip.jobs = clip.jobs, []
        for job in jobs:
            self._clips_of[job].remove(clip)
            self._update_place(job)
        return jobs

    # Internals

    async def _look_up(self, requests: Sequence[RenderRequest]) -> list[ClipResult | None]:
        """The results of clips that are finished."""
        return await asyncio.gather(*(self._result(request.digest) for request in requests))

    async def _result(self, digest: str) -> ClipResult | None:
        return None if digest in self.dispatcher.clips else await self._finished.find(digest)

    def _usable(self, digest: str, stored: ClipResult | None, job: JobRecord) -> ClipResult | None:
        """The result that answers the job; None if the clip is to be rendered, or is under way."""
        result = self._finished.in_memory(digest) or stored  # it may have finished meanwhile
        if digest in self.dispatcher.clips or result is None:
            return None
        return None if job.force and result.finished_at < job.created_at else result

    def _wait_for(
        self, job: JobRecord, request: RenderRequest, step: int = 0, recovered: bool = False
    ) -> None:
        """Let a job wait for a clip, which is rendered from `step` on if it is not under way."""
        clip = self.dispatcher.clips.get(request.digest)
        if clip is None:
            clip = Clip(
                request.digest,
                job.request.weights,
                urgency_of([job], self.held),
                request=request,
                source=job.model,
                label=job.id,
                trail=trail_of(job),
                force=job.force,
                recovered=recovered,
            )
            self.dispatcher.add(clip, step)
        clip.jobs.append(job.id)
        self._clips_of.setdefault(job.id, []).append(clip)
        self._update_place(job.id)

    def _complete_admission(self, job: JobRecord) -> None:
        self.update_urgency(job.id)
        if (why := self.why_blocked(job)) and self._clips_of.get(job.id):
            self._book.log_event(job.id, "blocked", why=why)
        self._close_if_done(job.id)

    def _add_result(self, job: str, result: ClipResult) -> None:
        record = self._book.open[job]
        self._finished.note_answer(record.tenant, result.request.digest)
        others = (r for r in record.results if r.request.asked != result.request.asked)
        results = [*others, result]
        results.sort(key=lambda r: r.request.params.seed)
        seconds = dict(record.seconds)
        for stage, spent in result.seconds.items():
            seconds[stage] = round(seconds.get(stage, 0.0) + spent, 4)
        self._book.update_in_memory(
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
            self._book.transition(job, Event.COMPLETE)

    def _wants_clips(self, job: str) -> bool:
        record = self._book.open.get(job)
        return record is not None and (record.state, Event.COMPLETE) in TRANSITIONS

    def _update_place(self, job: str) -> None:
        if self._clips_of.get(job):
            self.queue.put(job, urgency_of([self._book.open[job]], self.held).rank)
        else:
            self.queue.remove(job)

    def _update_clip(self, clip: Clip) -> None:
        jobs = [self._book.open[job] for job in clip.jobs]
        self.dispatcher.set_urgency(clip, urgency_of(jobs, self.held))


def urgency_of(jobs: Sequence[JobRecord], held: Container[str] = ()) -> Urgency:
    """The urgency of a job, or of a clip that several jobs wait for, the first one first.

    held: the tenants whose jobs wait like paused ones. Such a clip has the highest priority of any
    of them. It counts for the tenant of the first that is not paused, and is held only while all
    are.
    """
    at_work = [job for job in jobs if job.state is not State.PAUSED and job.tenant not in held]
    owner = (at_work or jobs)[0]
    priority = max(job.priority for job in jobs)
    return Urgency(owner.tenant, owner.created_at, priority, held=not at_work)
