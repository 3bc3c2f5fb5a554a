"""Reports to a meter what a coordinator sees: reports of tasks, ends of jobs, and its own state."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping

from farm.clock import Clock
from farm.coordinator.clips import Clip, ClipEvent, Retried
from farm.coordinator.reports import Report, TaskDone, TaskFailed
from farm.errors import StoreError
from farm.metrics import catalogue
from farm.metrics.catalogue import Metric
from farm.metrics.meter import Meter
from farm.model.job import JobRecord, State
from farm.model.plan import Kind
from farm.records.open_jobs import OpenJobs
from farm.scheduling.scheduler import Scheduler
from farm.store.quarantine import Quarantine
from farm.workers.protocol import Workers

STATE_S = 5.0  # between two reports of gauges
BANDS = ("low", "normal", "high")  # of the priorities from 0 to 100


class Metrics:
    """The metrics of one coordinator."""

    def __init__(
        self,
        meter: Meter,
        open_jobs: OpenJobs,
        scheduler: Scheduler[Clip],
        workers: Workers,
        quarantine: Quarantine,
        write_error: Callable[[], StoreError | None],
        clock: Clock,
    ) -> None:
        """write_error: why the store cannot be written to; None if it can."""
        self._meter, self._open_jobs = meter, open_jobs
        self._scheduler, self._workers, self._quarantine = scheduler, workers, quarantine
        self._write_error, self._clock = write_error, clock
        self._reported: dict[Metric, set[tuple[str, ...]]] = {}  # labels that are not zero

    def count_report(self, report: Report) -> None:
        """Count a task that has ended."""
        match report:
            case TaskDone(assignment, seconds=seconds):
                task, model = assignment.task, assignment.run.source.name
                self._meter.add(catalogue.TASKS, stage=task.stage, outcome="done")
                self._meter.add(catalogue.BUSY_SECONDS, sum(seconds), kind=task.kind)
                self._meter.observe(
                    catalogue.TASK_SECONDS, max(seconds), stage=task.stage, model=model
                )
            case TaskFailed(assignment, error):
                task = assignment.task
                self._meter.add(catalogue.TASKS, stage=task.stage, outcome=error.fault)

    def count_event(self, event: ClipEvent) -> None:
        """Count a retry."""
        if isinstance(event, Retried):
            self._meter.add(catalogue.RETRIES, reason=event.fault)

    def report_state(self) -> None:
        """Report what there is now: jobs, workers, and whether the store can be written to."""
        now = self._clock.wall()
        jobs, ages = Counter[tuple[str, ...]](), dict[tuple[str, ...], float]()
        for job in self._open_jobs.values():
            band = band_of(job.priority)
            jobs[job.tenant, band, job.state] += 1
            if job.state is State.QUEUED:
                age = max(0.0, now - job.created_at)
                ages[job.tenant, band] = max(age, ages.get((job.tenant, band), 0.0))
        self._set_all(catalogue.OPEN_JOBS, jobs)
        self._set_all(catalogue.QUEUE_AGE, ages)
        self._set_all(catalogue.WORKERS, self._worker_states())
        self._meter.set(catalogue.QUARANTINED, self._quarantine.count)
        self._meter.set(catalogue.STORE_WRITABLE, float(self._write_error() is None))

    async def keep_reporting(self) -> None:
        """Report the state every STATE_S, for ever."""
        while True:
            self.report_state()
            await asyncio.sleep(STATE_S)

    def _worker_states(self) -> Counter[tuple[str, ...]]:
        states = Counter[tuple[str, ...]]()
        for name, slot in self._workers.slots.items():
            worker = self._scheduler.workers.get(name)
            if worker is None:
                state = "starting"
            else:
                state = "draining" if worker.draining else worker.activity
            states[slot.kind, state] += 1
        for kind in Kind:  # so that an alert can tell no workers from no metrics
            states.setdefault((kind, "idle"), 0)
        return states

    def _set_all(self, metric: Metric, values: Mapping[tuple[str, ...], float]) -> None:
        """Set a gauge for each combination of labels; those that are gone are set to 0."""
        for labels in self._reported.get(metric, set()) | values.keys():
            named = dict(zip(metric.labels, labels, strict=True))
            self._meter.set(metric, values.get(labels, 0.0), **named)
        self._reported[metric] = set(values)


def count_job(meter: Meter, job: JobRecord) -> None:
    """Count a job that has ended, its clips, and the worker time that it was charged."""
    meter.add(catalogue.JOBS, tenant=job.tenant, state=job.state)
    meter.add(catalogue.GPU_SECONDS, job.gpu_seconds, tenant=job.tenant)
    for result in job.results:
        source = "rendered" if result.paid_for else "reused"
        meter.add(catalogue.CLIPS, tenant=job.tenant, source=source)


def band_of(priority: int) -> str:
    """The band of a priority: a label must have few values."""
    return BANDS[min(len(BANDS) - 1, priority * len(BANDS) // 101)]
