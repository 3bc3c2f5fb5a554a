"""Makes the parts of a coordinator, and starts them."""

import asyncio
from dataclasses import dataclass
from functools import partial

from farm.background import Background
from farm.coordinator.admission import Admission
from farm.coordinator.clip_store import ClipStore
from farm.coordinator.clips import Clip
from farm.coordinator.dispatcher import Dispatcher
from farm.coordinator.finished_clips import FinishedClips
from farm.coordinator.inbox import Inbox
from farm.coordinator.intake import Intake
from farm.coordinator.job_spans import export_job
from farm.coordinator.maintenance import Maintenance
from farm.coordinator.metrics import Metrics, count_job
from farm.coordinator.news import News
from farm.coordinator.quotas import Quotas
from farm.coordinator.render_loop import render_forever
from farm.coordinator.rendering import Rendering
from farm.coordinator.reports import Report
from farm.coordinator.retention import Retention
from farm.coordinator.sharing import Sharing
from farm.coordinator.task_runner import TaskRunner
from farm.coordinator.webhooks import Webhooks
from farm.coordinator.work_history import WorkHistory
from farm.metrics.meter import Meter
from farm.model.job import JobRecord, State
from farm.ownership.renewal import Ownership
from farm.records.cleanup import clear_orphans
from farm.records.clip_index import indexed_since
from farm.records.commits import take_fence
from farm.records.job_book import JobBook
from farm.records.pictures import Pictures, list_older
from farm.scheduling.scheduler import Scheduler
from farm.settings import Settings
from farm.store import Store
from farm.store.keys import CHECKPOINTS, step_of
from farm.store.quarantine import Quarantine
from farm.tracing import Tracer
from farm.workers.runtime import ModelFinder, Runtime

KEPT = 10_000  # jobs whose last change is remembered, at least


@dataclass(frozen=True)
class Parts:
    """A coordinator's parts; each knows only those that it was made from."""

    fence: int  # the coordinator's fencing token
    news: News
    book: JobBook
    admission: Admission
    pictures: Pictures
    intake: Intake
    rendering: Rendering
    sharing: Sharing
    maintenance: Maintenance
    retention: Retention
    quotas: Quotas
    webhooks: Webhooks
    quarantine: Quarantine
    metrics: Metrics


async def make_parts(
    settings: Settings,
    runtime: Runtime,
    ownership: Ownership,
    background: Background,
    models: ModelFinder,
    meter: Meter,
) -> Parts:
    """Take a fencing token, and make the parts of its coordinator. Raises StoreError."""
    store, clock = ownership.store, ownership.clock
    fence = await asyncio.to_thread(take_fence, store)
    older_pictures = await asyncio.to_thread(list_older, store)
    news = News(fence << 32, max(KEPT, 2 * settings.max_jobs))
    pictures = Pictures(store, background, older_pictures)
    webhooks = Webhooks(settings, store, background, clock, meter)
    since = await asyncio.to_thread(indexed_since, store, fence)
    finished = FinishedClips(store, background, since)
    on_end = partial(_end_job, pictures, finished, webhooks, meter, runtime.tracer())
    on_superseded = partial(runtime.end_process, "another coordinator has written its jobs")
    book = JobBook(store, background, fence, news.publish, on_end, on_superseded, clock.wall)
    rendering = _make_rendering(settings, runtime, ownership, background, fence)
    scheduler, workers, dispatcher = rendering.scheduler, rendering.workers, rendering.dispatcher
    sharing = Sharing(book, dispatcher, finished, news.publish)
    quarantine, error = Quarantine(store, background), ownership.write_error
    intake = Intake(settings, store, background, models, book, clock)
    policy = settings.retention
    retention = Retention(
        policy, store, background, clock, book, pictures, finished, dispatcher, intake
    )
    usage, stored_bytes = retention.usage, retention.stored_bytes
    quotas = Quotas(settings, clock, book.open, usage, stored_bytes, pictures.size, book.read)
    maintenance = Maintenance(
        settings, workers, scheduler, dispatcher, sharing, book, quotas.held, clock
    )
    return Parts(
        fence=fence,
        news=news,
        book=book,
        admission=Admission(settings, book),
        pictures=pictures,
        intake=intake,
        rendering=rendering,
        sharing=sharing,
        maintenance=maintenance,
        retention=retention,
        quotas=quotas,
        webhooks=webhooks,
        quarantine=quarantine,
        metrics=Metrics(meter, book.open, scheduler, workers, quarantine, error, clock),
    )


async def take_over(parts: Parts, store: Store, background: Background) -> None:
    """Continue the open jobs from their last checkpoints. Raises StoreError."""
    jobs = await parts.book.recover()
    await parts.quotas.load()
    keys = await background.call(lambda: list(store.list(CHECKPOINTS)))
    steps = dict(sorted(filter(None, map(step_of, keys))))  # the last of each clip
    await parts.sharing.take_over([job for job in jobs if job.state.is_open], steps)
    clips = frozenset(parts.rendering.dispatcher.clips)
    background.start(background.call(clear_orphans, store, keys, clips))


def start_loops(parts: Parts, background: Background) -> None:
    """Start the loops that run for as long as the coordinator does."""
    background.start(parts.book.save_recovered())
    background.start(parts.book.tenants.complete())
    for loop in (
        render_forever(parts.rendering.dispatcher, parts.sharing, parts.metrics, parts.quotas),
        parts.metrics.keep_reporting(),
        parts.book.logs.keep(),
        parts.maintenance.keep_workers(),
        parts.maintenance.keep_limits(),
        parts.webhooks.deliver(),
        parts.quarantine.keep_looking(),
        parts.retention.keep(),
        parts.quotas.keep_counting(),
    ):
        background.run_forever(loop)


async def _end_job(
    pictures: Pictures,
    finished: FinishedClips,
    webhooks: Webhooks,
    meter: Meter,
    tracer: Tracer,
    job: JobRecord,
) -> None:
    """Act on a job's end, which is in the store. Raises StoreError, and is then repeated."""
    if job.state is State.FAILED:
        pictures.doubt(job.request.picture)  # a damaged picture may be the cause
    await finished.enter(job)
    await webhooks.add(job)
    count_job(meter, job)
    export_job(tracer, job)


def _make_rendering(
    settings: Settings,
    runtime: Runtime,
    ownership: Ownership,
    background: Background,
    fence: int,
) -> Rendering:
    inbox, clock = Inbox[Report](), ownership.clock
    scheduler = Scheduler[Clip](settings.max_gpus)
    workers = runtime.workers(ownership.workers_store, background, inbox.put, settings)
    clip_store = ClipStore(ownership.store, background, fence, clock)
    history = WorkHistory(clock)
    runner = TaskRunner(workers, clip_store, background, inbox, clock, history)
    dispatcher = Dispatcher(scheduler, workers, runner, inbox, clock, settings.segment_steps)
    return Rendering(scheduler, workers, dispatcher, history)
