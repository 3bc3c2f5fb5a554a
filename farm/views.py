"""What is told of jobs and workers, from what the coordinator has in memory."""

from collections import Counter
from typing import Any

from farm.book import Book
from farm.dispatch import Dispatcher
from farm.job import Job, Progress, State
from farm.plan import Kind, Stage
from farm.pool import Pool
from farm.scheduler import Scheduler


def progress_of(
    job: Job, dispatcher: Dispatcher, scheduler: Scheduler, placed: bool = True
) -> Progress:
    """How far a job is, over all its clips; with its place in the queue and an ETA (`placed`)."""
    params, count = job.request.params, job.request.num_videos
    frames = params.num_frames or 0
    per_clip = -(-frames // (params.decode_chunk_size or frames))
    done = len(job.results)
    clips = [dispatcher.clips.get(clip.digest) for clip in job.request.clips()]
    under_way = [clip for clip in clips if clip is not None] if job.state.is_open else []
    position = None
    if placed and job.state in (State.QUEUED, State.PAUSED) and under_way:
        rank = min(clip.run.rank for clip in under_way)
        # A clip of a better rank is before it, whether it is begun or not.
        before = {c.label for c in dispatcher.clips.values() if c.run.rank < rank}
        position = len(before)
    return Progress(
        stage=max((c.stage for c in under_way if c.stage), key=list(Stage).index, default=None),
        step=done * params.steps + sum(clip.step for clip in under_way),
        steps=count * params.steps,
        chunk=done * per_clip + sum(clip.chunks for clip in under_way),
        chunks=count * per_clip,
        queue_position=position,
        eta_s=_eta(job, position, dispatcher, scheduler) if placed and under_way else None,
    )


def _eta(
    job: Job, position: int | None, dispatcher: Dispatcher, scheduler: Scheduler
) -> float | None:
    """What its clips still need, after their share of what is before them in the queue."""
    own = {clip.digest for clip in job.request.clips()}
    workers = sum(worker.kind is Kind.RENDERER for worker in scheduler.workers.values())
    mine = ahead = 0.0
    rank = min((c.run.rank for d, c in dispatcher.clips.items() if d in own), default=0.0)
    for digest, clip in dispatcher.clips.items():
        if digest not in own and (position is None or clip.run.rank >= rank):
            continue
        size = clip.request.params.decode_chunk_size or 0
        left = dispatcher.pace.left(clip.request, clip.step, clip.chunks * size)
        if left is None or not workers:
            return None
        if digest in own:
            mine = max(mine, left)
        else:
            ahead += left
    return round(mine + ahead / workers, 1)


def status_of(scheduler: Scheduler, pool: Pool, book: Book) -> dict[str, Any]:
    """Workers and what each does; jobs by tenant and state."""
    jobs: dict[str, Counter[str]] = {}
    for job in book.open.values():
        jobs.setdefault(job.tenant, Counter())[job.state] += 1
    return {
        "workers": {name: _worker(name, scheduler, pool) for name in sorted(pool.slots)},
        "jobs": {tenant: dict(states) for tenant, states in jobs.items()},
    }


def _worker(name: str, scheduler: Scheduler, pool: Pool) -> dict[str, Any]:
    worker, slot = scheduler.workers.get(name), pool.slots[name]
    told: dict[str, Any] = {"state": "starting", "node": slot.node[:8], "gpus": slot.gpus}
    if worker is not None:
        at = "busy" if worker.task else "idle"
        told |= {"state": "draining" if worker.draining and worker.task else at}
        if worker.draining and not worker.task:
            told["state"] = "drained"
        told["place"] = pool.places.get(name)
        if worker.task:
            told |= {"clip": worker.task.run.id, "task": worker.task.task.key}
    return told
