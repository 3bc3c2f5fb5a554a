"""The farm's metrics: their names, labels and units, by Prometheus' rules for names.

Labels have few values: no metric has one for a job, a clip or a worker.
"""

from dataclasses import dataclass
from enum import StrEnum

PREFIX = "ray_"  # Ray puts it before every name that it exports

QUICK_S = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
SLOW_S = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)


class Type(StrEnum):
    """What a metric's values mean."""

    COUNTER = "counter"  # only grows
    GAUGE = "gauge"
    HISTOGRAM = "histogram"  # how often values fell in each bucket


@dataclass(frozen=True)
class Metric:
    """A metric. `buckets` are the upper bounds of a histogram's."""

    name: str
    type: Type
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def exported(self) -> str:
        """Its name in a scrape, without the suffixes of a histogram's series."""
        return PREFIX + self.name


def _counter(name: str, help_: str, *labels: str) -> Metric:
    return Metric(name, Type.COUNTER, help_, labels)


def _gauge(name: str, help_: str, *labels: str) -> Metric:
    return Metric(name, Type.GAUGE, help_, labels)


def _histogram(name: str, help_: str, buckets: tuple[float, ...], *labels: str) -> Metric:
    return Metric(name, Type.HISTOGRAM, help_, labels, buckets)


OPEN_JOBS = _gauge(
    "farm_open_jobs", "Jobs that have not ended, by state.", "tenant", "priority", "state"
)
QUEUE_AGE = _gauge(
    "farm_queue_age_seconds",
    "Time since the oldest job that still waits for its first task was submitted.",
    *("tenant", "priority"),
)
JOBS = _counter("farm_jobs_total", "Jobs that have ended, by state.", "tenant", "state")
CLIPS = _counter(
    "farm_clips_total",
    "Clips of completed jobs: rendered for them, or reused from another job.",
    *("tenant", "source"),
)
GPU_SECONDS = _counter(
    "farm_gpu_seconds_total", "Worker time that jobs were charged, counted when they end.", "tenant"
)
WORKERS = _gauge("farm_workers", "Workers, by what they are doing.", "kind", "state")
BUSY_SECONDS = _counter(
    "farm_worker_busy_seconds_total", "Time that workers spent on tasks that are done.", "kind"
)
TASKS = _counter("farm_tasks_total", "Attempts at tasks that have ended.", "stage", "outcome")
TASK_SECONDS = _histogram(
    "farm_task_seconds", "Time of a task that is done.", SLOW_S, "stage", "model"
)
RETRIES = _counter("farm_retries_total", "Tasks that are to be tried again.", "reason")
STORE_SECONDS = _histogram(
    "farm_store_seconds", "Time of a call of the store, retries included.", QUICK_S, "operation"
)
STORE_ERRORS = _counter(
    "farm_store_errors_total", "Calls of the store that failed after their retries.", "operation"
)
STORE_WRITABLE = _gauge("farm_store_writable", "1 while the coordinator can write to the store.")
QUARANTINED = _gauge(
    "farm_quarantined_objects", "Objects of the store that could not be read, and were set aside."
)
WEBHOOKS = _counter("farm_webhooks_total", "Attempts to deliver a webhook.", "outcome")
WEBHOOK_LAG = _histogram(
    "farm_webhook_lag_seconds", "Time from a job's end to its webhook's delivery.", SLOW_S
)
HTTP_REQUESTS = _counter(
    "farm_http_requests_total", "HTTP requests answered.", "method", "route", "status"
)
HTTP_SECONDS = _histogram(
    "farm_http_seconds", "Time until an answer to an HTTP request begins.", QUICK_S, "route"
)

METRICS = (
    *(OPEN_JOBS, QUEUE_AGE, JOBS, CLIPS, GPU_SECONDS),
    *(WORKERS, BUSY_SECONDS, TASKS, TASK_SECONDS, RETRIES),
    *(STORE_SECONDS, STORE_ERRORS, STORE_WRITABLE, QUARANTINED),
    *(WEBHOOKS, WEBHOOK_LAG, HTTP_REQUESTS, HTTP_SECONDS),
)
