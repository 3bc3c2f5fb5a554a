"""A batch on its way: its clips submitted, watched, and fetched as they are finished."""

import logging
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from farm.client import Farm, fetch
from farm.errors import FarmError, QueueFullError, StoreError, WorkerError
from farm.inputs import Picture, read
from farm.job import Job, JobView, State, Submission
from farm.progress import Reporter
from farm.request import Model
from farm.store import Store
from farm.summary import Row, Summary
from farm.sweep import Sweep, title
from svd_engine.params import RenderParams

SUBMITTERS = 8  # submissions under way at once
ROOM_S = 30.0  # at most, between two tries to submit to a farm that is full


@dataclass(frozen=True)
class Clip:
    """One clip of the batch: a picture, and parameters with nothing left open."""

    picture: Picture
    params: RenderParams
    variation: dict[str, Any]
    digest: str  # of its request; empty where the picture cannot be read

    @property
    def title(self) -> str:
        return title(self.picture.name, self.variation)


@dataclass(frozen=True)
class Batch:
    """What was asked for on the command line."""

    out: Store
    summary: Summary
    model: Model
    pictures: Sequence[Picture]
    sweep: Sweep
    priority: int
    force: bool


class BatchRun:
    """The clips of a batch on their way: submitted, watched, fetched."""

    def __init__(self, farm: Farm, batch: Batch, reporter: Reporter) -> None:
        self._farm, self._batch, self._reporter = farm, batch, reporter
        self._store = farm.store()
        self._clips: dict[str, Clip] = {}  # by job, those under way
        self._full = False  # said once
        self._given_up = threading.Event()

    def render(self, clips: Sequence[Clip]) -> None:
        """Submit all, then take each as it is finished. WorkerError where the farm is gone."""
        with ThreadPoolExecutor(SUBMITTERS) as submitters:
            try:
                for clip, error in zip(clips, submitters.map(self._submit, clips), strict=True):
                    if error:
                        self._finish(self._row(clip, status="failed", error=str(error)))
            except BaseException:
                self._given_up.set()
                submitters.shutdown(wait=False, cancel_futures=True)
                raise
        for views in self._farm.watch(list(self._clips)):
            for view in views:
                self._take(view)
        for job, clip in self._clips.items():
            self._finish(self._row(clip, status="failed", error=f"its job {job} was deleted"))

    def interrupted(self) -> None:
        """Ask once what is to become of the jobs."""
        answer = "d"
        if sys.stdin.isatty():
            try:
                answer = input("\nlet the farm go on (d, detach) or stop it (c, cancel)? [d] ")
            except (KeyboardInterrupt, EOFError):
                print(file=sys.stderr)
        if answer.strip().lower().startswith("c"):
            with ThreadPoolExecutor(SUBMITTERS) as threads:
                list(threads.map(self._cancel, list(self._clips)))
            print("cancelled; run it again to go on with what is missing", file=sys.stderr)
        else:
            print("detached; run it again to fetch the clips and go on", file=sys.stderr)

    def _cancel(self, job: str) -> None:
        try:
            self._farm.cancel(job)
        except FarmError as error:  # finished just now
            logging.getLogger("farm").info("%s", error)

    def _submit(self, clip: Clip) -> FarmError | None:
        """Into `_clips`; or why not."""
        batch = self._batch
        submission = Submission(
            model=batch.model,
            params=clip.params,
            priority=batch.priority,
            force=batch.force,
            picture_name=clip.picture.name,
        )
        try:
            data = read(clip.picture)
            while True:
                try:
                    self._clips[self._farm.submit(submission, data).job.id] = clip
                    return None
                except QueueFullError as error:
                    if not self._full:
                        logging.getLogger("farm").warning("%s; waiting for room", error)
                    self._full = True
                    if self._given_up.wait(min(ROOM_S, error.retry_after_s)):
                        return error
        except WorkerError:  # the farm is gone, for all clips alike
            raise
        except FarmError as error:
            return error

    def _take(self, view: JobView) -> None:
        job, clip = view.job, self._clips[view.job.id]
        if job.state.is_open:
            self._reporter.progress(clip.title, view)
            return
        del self._clips[job.id]
        if job.state is not State.COMPLETED:
            status = "cancelled" if job.state is State.CANCELLED else "failed"
            self._finish(self._row(clip, job, status=status, error=job.error or "cancelled"))
            return
        try:
            self._finish(self._fetched(clip, job))
        except StoreError as error:
            self._finish(self._row(clip, job, status="failed", error=str(error)))

    def _fetched(self, clip: Clip, job: Job) -> Row:
        """Put the clip's files where the batch is to have them; the row that names them."""
        (result,) = job.results
        row = self._row(
            clip,
            job,
            status="done",
            sha256=result.sha256,
            seconds={stage.value: round(s, 3) for stage, s in result.seconds.items()},
            worker=result.worker,
            digest=result.request.digest,
        )
        video, thumbnail = fetch(self._store, result)
        self._batch.out.put(row.video, video)
        self._batch.out.put(row.thumbnail, thumbnail)
        return row

    def _row(self, clip: Clip, job: Job | None = None, **values: Any) -> Row:
        spent = {}
        if job is not None:
            spent = {"job": job.id, "attempts": job.attempts, "gpu_seconds": job.gpu_seconds}
        return Row(
            name=clip.picture.name,
            picture=clip.picture.source,
            seed=clip.params.seed,
            variation=clip.variation,
            parameters=clip.params,
            **spent,
            **values,
        )

    def _finish(self, row: Row) -> None:
        self._batch.summary.add(row)
        self._reporter.finished(row)
