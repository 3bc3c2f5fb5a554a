"""The interface through which `farm.Job` uses a farm, and its implementation for a Ray cluster."""

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from farm.artifacts import ArtifactName
from farm.client.farm import Farm, read_artifact
from farm.errors import JobError, QueueFullError
from farm.model.job import LogEntry
from farm.model.parameters import submission_of
from farm.model.wire import Video, video_of

PATIENCE_S = 60.0  # how long to retry with a full farm, or a server that does not answer
PAUSES_S = 0.25, 8.0  # the first and the longest pause between two tries
TICK_S = 1.0  # the longest time between two results of `watch`
EVENTS_EVERY_S = 0.5  # between two reads of a job's event log


class Remote(Protocol):
    """A farm as a client sees it. Methods raise FarmErrors: JobError if there is no such job."""

    def submit(self, picture: bytes, fields: Mapping[str, Any], name: str = "") -> Video:
        """Submit a job, which is in the store on return. name: the picture's file name."""

    def state(self, job: str) -> Video:
        """The current state of a job."""

    def watch(self, jobs: Sequence[str], until: float | None) -> Iterator[list[Video]]:
        """Yield jobs as they change, until all are finished or `time.monotonic()` is `until`.

        Yields an empty list about once a second if nothing has changed.
        """

    def cancel(self, job: str) -> Video:
        """Cancel a job, and return once its worker is free. A finished job stays as it is."""

    def content(self, job: str, artifact: ArtifactName, index: int) -> bytes:
        """A file of a completed job's clip; `index` counts clips in the order of their seeds."""

    def events(self, job: str, after: int) -> Iterator[LogEntry]:
        """Yield a job's event log after entry `after`, until the job is finished."""

    def close(self) -> None:
        """Close the connection."""


class Patience:
    """Pauses between retries, with exponential backoff and a total time limit."""

    def __init__(self, seconds: float = PATIENCE_S) -> None:
        self._until = time.monotonic() + seconds
        self._pause, self._longest = PAUSES_S
        self.spent = False

    def pause(self, asked: float | None = None) -> bool:
        """Sleep before the next try; False at once if that would exceed the time limit.

        asked: the pause in seconds that the farm asked for, in place of the backoff.
        """
        if asked is None:
            asked = self._pause * random.uniform(0.5, 1.0)  # so that clients spread their retries
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

    def submit(self, picture: bytes, fields: Mapping[str, Any], name: str = "") -> Video:
        submission = submission_of(fields, picture_name=name)
        folder = Path(submission.model.name)
        if folder.is_dir():  # made absolute, because workers have another working directory
            model = submission.model.model_copy(update={"name": str(folder.absolute())})
            submission = submission.model_copy(update={"model": model})
        patience = Patience()
        while True:
            try:
                return video_of(self._farm.submit(submission, picture))
            except QueueFullError as error:
                if not patience.pause(error.retry_after_s):
                    raise

    def state(self, job: str) -> Video:
        return video_of(self._farm.show(job))

    def watch(self, jobs: Sequence[str], until: float | None) -> Iterator[list[Video]]:
        left = dict.fromkeys(jobs)
        tick = TICK_S if until is None else min(TICK_S, max(0.0, until - time.monotonic()))
        for views in self._farm.watch(jobs, tick):
            for view in views:
                if not view.job.state.is_open:
                    left.pop(view.job.id, None)
            yield [video_of(view) for view in views]
            if until is not None and time.monotonic() >= until:
                return
        for job in left:
            self.state(job)  # raises JobError if the job was deleted

    def cancel(self, job: str) -> Video:
        try:
            return video_of(self._farm.cancel(job))
        except JobError:  # either it has just finished, or this raises JobError again
            return self.state(job)

    def content(self, job: str, artifact: ArtifactName, index: int) -> bytes:
        result = self._farm.show(job).job.results[index]
        return read_artifact(self._farm.store(), result.key(artifact))

    def events(self, job: str, after: int) -> Iterator[LogEntry]:
        while True:
            open_still = self.state(job).state.is_open  # read before the log, to miss no entry
            for entry in self._farm.events(job, after):
                after = entry.seq
                yield entry
            if not open_still:
                return
            time.sleep(EVENTS_EVERY_S)

    def close(self) -> None:
        """Do nothing: Ray owns the connection."""
