"""Views of jobs and workers for clients, from what the coordinator has in memory."""

from collections import Counter
from typing import Any

from farm.coordinator.clips import Clip
from farm.coordinator.rendering import Rendering
from farm.coordinator.sharing import Sharing
from farm.errors import StoreError
from farm.model.job import JobRecord, Progress, State
from farm.model.plan import Kind, Stage
from farm.records.job_book import JobBook
from farm.scheduling.scheduler import Scheduler
from farm.store.quarantine import Quarantine

_Left = tuple[float, float]  # seconds that are left: of a job's longest clip, and of all of them
SAMPLE = 32  # clips of a job, and jobs ahead of it, that an ETA is estimated from


def progress_of(
    job: JobRecord, sharing: Sharing, scheduler: Scheduler[Clip], with_eta: bool = True
) -> Progress:
    """A job's progress, over all its clips. with_eta: with its queue position and its ETA."""
    under_way = sharing.under_way(job.id)
    waits = bool(with_eta and under_way and job.state in (State.QUEUED, State.PAUSED))
    left = _left(sharing, job.id)
    return Progress.of(
        job,
        step=sum(max(clip.step, clip.furthest[0]) for clip in under_way),
        chunk=sum(max(clip.chunks, clip.furthest[1]) for clip in under_way),
        stage=max((c.stage for c in under_way if c.stage), key=list(Stage).index, default=None),
        queue_position=sharing.queue.position(job.id) if waits else None,
        eta_s=_eta(job, left, waits, sharing, scheduler) if with_eta else None,
        blocked=_blocked(job, sharing),
        busy=any(clip.running for clip in under_way),
        share=_share(job, left, sharing),
    )


def _share(job: JobRecord, left: _Left | None, sharing: Sharing) -> float | None:
    """The share of a worker's time that a job needs, which is behind it."""
    clips = sharing.under_way(job.id)
    if not clips or len(clips) + len(job.results) < job.request.num_videos:
        return None  # it is being admitted, clip by clip
    whole = sharing.dispatcher.pace.left(clips[0].request)
    if left is None or not whole:
        return None
    return round(min(1.0, max(0.0, 1 - left[1] / (whole * job.request.num_videos))), 4)


def _blocked(job: JobRecord, sharing: Sharing) -> str | None:
    waits = job.state in (State.QUEUED, State.RUNNING) and sharing.under_way(job.id)
    return sharing.why_blocked(job) or None if waits else None


def _eta(
    job: JobRecord,
    mine: _Left | None,
    waits: bool,
    sharing: Sharing,
    scheduler: Scheduler[Clip],
) -> float | None:
    """Seconds until a job is finished, after the jobs that are ahead of it in the queue."""
    workers = sum(worker.kind is Kind.RENDERER for worker in scheduler.workers.values())
    if mine is None or not workers:
        return None
    longest, total = mine
    if waits:
        ahead = [_left(sharing, name) for name in sharing.queue.sample_before(job.id, SAMPLE)]
        # A job of a model that was never timed is taken to need as long as the others.
        known = [seconds for _, seconds in filter(None, ahead)] or [total]
        total += sum(known) * sharing.queue.position(job.id) / len(known)
    return round(max(longest, total / workers), 1)


def _left(sharing: Sharing, job: str) -> _Left | None:
    """Seconds of one worker that a job still needs: for its longest clip, and for all of them.

    None while a stage that they need was never timed.
    """
    clips = sharing.under_way(job)
    some = clips[:: max(1, -(-len(clips) // SAMPLE))]
    times = []
    for clip in some:
        params = clip.request.params
        steps, chunks = max(clip.step, clip.furthest[0]), max(clip.chunks, clip.furthest[1])
        frames = min(params.frames, chunks * (params.decode_chunk_size or params.frames))
        times.append(sharing.dispatcher.pace.left(clip.request, steps, frames))
    known = [seconds for seconds in times if seconds is not None]
    if not known or len(known) < len(times):
        return None
    return max(known), sum(known) * len(clips) / len(known)


def status_of(
    rendering: Rendering,
    book: JobBook,
    quarantine: Quarantine,
    blocked: str,
    write_error: StoreError | None,
) -> dict[str, Any]:
    """What each worker does, how many jobs each tenant has in which state, and the store's state.

    blocked: why jobs wait for workers; empty if none do. write_error: why nothing can be written.
    """
    jobs: dict[str, Counter[str]] = {}
    for job in book.open.values():
        jobs.setdefault(job.tenant, Counter())[job.state] += 1
    slots = sorted(rendering.workers.slots)
    rendering.history.keep(slots)
    return {
        "workers": {name: _worker(name, rendering, book) for name in slots},
        "blocked": blocked or None,
        "jobs": {tenant: dict(states) for tenant, states in jobs.items()},
        "trouble": write_error and {"why": str(write_error), "reason": write_error.reason},
        "quarantined": quarantine.count,
        "quarantine": [
            {"key": note.key, "reason": note.reason, "at": note.at}
            for note in quarantine.notes.values()
        ],
    }


def _worker(name: str, rendering: Rendering, book: JobBook) -> dict[str, Any]:
    worker, slot = rendering.scheduler.workers.get(name), rendering.workers.slots[name]
    view: dict[str, Any] = {
        "state": "starting",
        "node": slot.node[:8],
        "gpus": slot.gpus,
        "history": rendering.history.of(name),
    }
    if worker is None:
        view["why"] = rendering.workers.troubles.get(name)
        return view
    view["state"] = worker.activity
    view["place"] = rendering.workers.places.get(name)
    if worker.task:
        clip, task = worker.task.run, worker.task.task
        job = book.open.get(clip.jobs[0]) if clip.jobs else None
        view |= {"clip": clip.id, "task": task.key, "stage": task.stage, "span": task.span}
        view |= {"job": job and job.id, "picture": job and job.picture_name}
    return view
