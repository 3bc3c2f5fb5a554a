"""What a client does with a farm: submit, watch, cancel, fetch. It knows nothing of Ray."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from farm.errors import JobError, StoreError
from farm.model.job import LOG_PAGE, ClipResult, Job, JobView, LogEntry, Submission
from farm.model.request import Model, ModelFacts
from farm.store import KnownStore, Store, open_store


class Farm:
    """A farm, by whatever way its coordinator is called."""

    def __init__(self, call: Callable[..., Any]) -> None:
        """call: takes the name of a coordinator's method and its arguments."""
        self._call = call

    def describe(self, model: Model) -> ModelFacts:
        """A model's digest and defaults. RequestError: there is no such model."""
        facts: ModelFacts = self._call("describe", model)
        return facts

    def submit(self, submission: Submission, picture: bytes) -> JobView:
        """Hand a job over; it is in the store once this returns.

        Raises RequestError, QueueFullError or StoreError.
        """
        return self._view("submit", submission, picture)

    def show(self, job: str) -> JobView:
        """A job, and how far it is. JobError: there is none."""
        return self._view("show", job)

    def jobs(self, after: str = "", limit: int = 100, open_only: bool = False) -> list[Job]:
        """Jobs, oldest first, those after id `after`."""
        jobs: list[Job] = self._call("jobs", after, limit, open_only)
        return jobs

    def watch(self, jobs: Sequence[str], tick_s: float = 10.0) -> Iterator[list[JobView]]:
        """Yield the jobs as they change, until all are finished; an empty list every `tick_s`.

        A job that somebody deletes meanwhile is left out.
        """
        version, left = -1, dict.fromkeys(jobs)
        while left:
            version, views = self._call("watch", list(left), version, tick_s)
            for view in views:
                if not view.job.state.is_open:
                    left.pop(view.job.id, None)
            yield views
            if not views:
                job = next(iter(left))  # what is deleted makes no news: look at each in its turn
                del left[job]
                with suppress(JobError):
                    self.show(job)
                    left[job] = None

    def events(self, job: str, after: int = 0) -> list[LogEntry]:
        """A job's event log from after entry `after` on."""
        entries: list[LogEntry] = []
        while True:
            page: list[LogEntry] = self._call("events", job, after)
            entries += page
            if len(page) < LOG_PAGE:
                return entries
            after = page[-1].seq

    def cancel(self, job: str) -> JobView:
        """Stop a job at its next step or chunk; back when its worker is free."""
        return self._view("cancel", job)

    def pause(self, job: str) -> JobView:
        """Begin no more of its tasks until it is resumed."""
        return self._view("pause", job)

    def resume(self, job: str) -> JobView:
        """Go on with a paused job."""
        return self._view("resume", job)

    def set_priority(self, job: str, priority: int) -> JobView:
        """Change an open job's priority, 0 to 100."""
        return self._view("set_priority", job, priority)

    def drain(self, worker: str, draining: bool = True) -> dict[str, Any]:
        """Give a worker no more tasks, or some again; the farm's status."""
        status: dict[str, Any] = self._call("drain", worker, draining)
        return status

    def status(self) -> dict[str, Any]:
        """Workers, what each does, and the open jobs by tenant and state."""
        status: dict[str, Any] = self._call("status")
        return status

    def store(self) -> Store:
        """Where the farm keeps what it makes."""
        there = self._call("ready")
        return KnownStore(open_store(there["store"], make=False), there["store_id"])

    def _view(self, method: str, *arguments: Any) -> JobView:
        view: JobView = self._call(method, *arguments)
        return view


def fetch(store: Store, result: ClipResult) -> tuple[bytes, bytes]:
    """A finished clip's video and thumbnail. StoreError where they are gone."""
    video, thumbnail = store.get(result.video), store.get(result.thumbnail)
    if video is None or thumbnail is None:
        raise StoreError(f"{store.where(result.video)} is gone: submit with force to render anew")
    return video.data, thumbnail.data
