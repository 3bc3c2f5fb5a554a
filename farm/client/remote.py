"""What a job's handle needs of a farm, however far away; and the farm of a Ray cluster as one."""

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict

from farm.client.farm import Farm
from farm.errors import JobError, QueueFullError, StoreError
from farm.model.job import JobView, LogEntry, Progress, State, Variant
from farm.model.parameters import submission_of

PATIENCE_S = 60.0  # with a farm that is full, or a server that does not answer
PAUSES_S = 0.25, 8.0  # between two tries: the first, and the longest
TICK_S = 1.0  # the longest that `watch` is silent
EVENTS_EVERY_S = 0.5


class Snapshot(BaseModel):
    """A job as it was when somebody looked."""

    model_config = ConfigDict(frozen=True)

    id: str
    state: State
    progress: Progress
    num_videos: int
    fps: int
    error: str | None = None


class Remote(Protocol):
    """A farm. Its methods raise FarmErrors: JobError where there is no such job."""

    def submit(self, picture: bytes, fields: Mapping[str, Any], name: str = "") -> Snapshot:
        """Hand a job over; it is in the store once this returns. name: of the picture's file."""

    def state(self, job: str) -> Snapshot:
        """A job as it is now."""

    def watch(self, jobs: Sequence[str], until: float | None) -> Iterator[list[Snapshot]]:
        """Yield jobs as they change, until all are finished or the monotonic clock is at `until`.

        An empty list, once a second or so, where there is nothing new.
        """

    def cancel(self, job: str) -> Snapshot:
        """Stop a job; back when its worker is free. One that is finished stays as it is."""

    def content(self, job: str, variant: Variant, index: int) -> bytes:
        """A file of a completed job: of its clip `index`, in the order of their seeds."""

    def events(self, job: str, after: int) -> Iterator[LogEntry]:
        """A job's event log from after entry `after` on, until it is finished."""

    def close(self) -> None:
        """Let go of what is open."""


class Patience:
    """Whether to try again, and when."""

    def __init__(self, seconds: float = PATIENCE_S) -> None:
        self._until = time.monotonic() + seconds
        self._pause, self._longest = PAUSES_S
        self.spent = False

    def pause(self, asked: float | None = None) -> bool:
        """Sleep before another try, as long as is asked for; False at once if that is too long."""
        if asked is None:
            asked = self._pause * random.uniform(0.5, 1.0)  # not all clients at the same time
            self._pause = min(2 * self._pause, self._longest)
        if time.monotonic() + asked > self._until:
            self.spent = True
            return False
        time.sleep(asked)
        return True


class ClusterRemote:
    """The farm of the Ray cluster that this process is in."""

    def __init__(self, farm: Farm) -> None:
        self._farm = farm

    def submit(self, picture: bytes, fields: Mapping[str, Any], name: str = "") -> Snapshot:
        submission = submission_of(fields, picture_name=name)
        folder = Path(submission.model.name)
        if folder.is_dir():  # a worker's working directory is not this one
            model = submission.model.model_copy(update={"name": str(folder.absolute())})
            submission = submission.model_copy(update={"model": model})
        patience = Patience()
        while True:
            try:
                return _snapshot(self._farm.submit(submission, picture))
            except QueueFullError as error:
                if not patience.pause(error.retry_after_s):
                    raise

    def state(self, job: str) -> Snapshot:
        return _snapshot(self._farm.show(job))

    def watch(self, jobs: Sequence[str], until: float | None) -> Iterator[list[Snapshot]]:
        left = dict.fromkeys(jobs)
        tick = TICK_S if until is None else min(TICK_S, max(0.0, until - time.monotonic()))
        for views in self._farm.watch(jobs, tick):
            for view in views:
                if not view.job.state.is_open:
                    left.pop(view.job.id, None)
            yield [_snapshot(view) for view in views]
            if until is not None and time.monotonic() >= until:
                return
        for job in left:
            self.state(job)  # JobError: somebody deleted it

    def cancel(self, job: str) -> Snapshot:
        try:
            return _snapshot(self._farm.cancel(job))
        except JobError:  # finished just now; if there is none, this says so again
            return self.state(job)

    def content(self, job: str, variant: Variant, index: int) -> bytes:
        key, store = self._farm.show(job).job.results[index].key(variant), self._farm.store()
        stored = store.get(key)
        if stored is None:
            raise StoreError(f"{store.where(key)} is gone: submit with force to render anew")
        return stored.data

    def events(self, job: str, after: int) -> Iterator[LogEntry]:
        while True:
            open_still = self.state(job).state.is_open  # asked first: none is then missed
            for entry in self._farm.events(job, after):
                after = entry.seq
                yield entry
            if not open_still:
                return
            time.sleep(EVENTS_EVERY_S)

    def close(self) -> None:
        """Nothing: the cluster's connection is Ray's."""


def _snapshot(view: JobView) -> Snapshot:
    job = view.job
    return Snapshot(
        id=job.id,
        state=job.state,
        progress=view.progress,
        num_videos=job.request.num_videos,
        fps=job.request.params.fps,
        error=job.error,
    )
