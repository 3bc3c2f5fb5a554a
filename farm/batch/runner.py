"""Runs a batch: submits its clips, watches them, and fetches each one that is finished."""

import logging
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from farm.batch.inputs import Picture, read
from farm.batch.listing import Listing
from farm.batch.progress import Reporter
from farm.batch.small_pictures import small_jpeg
from farm.batch.summary import Content, Row, Summary
from farm.batch.sweep import Sweep, title
from farm.client.farm import Farm, fetch
from farm.errors import FarmError, QueueFullError, RequestError, StoreError, WorkerError
from farm.model.job import JobRecord, JobView, State, Submission
from farm.model.request import Model
from farm.store import Store
from svd_engine.params import RenderParams

SUBMITTERS = 8  # concurrent submissions
ROOM_S = 30.0  # the longest wait before submitting again to a full farm


@dataclass(frozen=True)
class Clip:
    """A clip of the batch: a picture, and fully resolved parameters."""

    picture: Picture
    params: RenderParams
    variation: dict[str, Any]
    digest: str  # of its request; empty if the picture cannot be read

    @property
    def title(self) -> str:
        return title(self.picture.name, self.variation)


@dataclass(frozen=True)
class Batch:
    """The validated command line."""

    out: Store
    summary: Summary
    model: Model
    pictures: Sequence[Picture]
    listings: Mapping[str, Listing]  # of folders and globs, and what they leave out
    sweep: Sweep
    priority: int
    force: bool
    verify: bool
    command: str  # that was given, for the page


class BatchRun:
    """Submits, watches and fetches the clips of a batch."""

    def __init__(self, farm: Farm, batch: Batch, reporter: Reporter) -> None:
        self._farm, self._batch, self._reporter = farm, batch, reporter
        self._store = farm.store()
        self._clips: dict[str, Clip] = {}  # unfinished, by job
        self._full = False  # reported once
        self._shown: set[str] = set()  # the keys of pictures that were written for the page
        self._given_up = threading.Event()

    @property
    def open(self) -> int:
        """The number of unfinished clips."""
        return len(self._clips)

    def render(self, clips: Sequence[Clip]) -> None:
        """Submit all clips, and fetch each when it is finished. WorkerError if the farm is gone."""
        self.submit(clips)
        for views in self._farm.watch(list(self._clips)):
            for view in views:
                self._take(view)
        for job, clip in self._clips.items():
            self._finish(self._row(clip, status="failed", error=f"its job {job} was deleted"))

    def submit(self, clips: Sequence[Clip]) -> None:
        """Submit all clips; those that the farm refuses count as failed."""
        with ThreadPoolExecutor(SUBMITTERS) as submitters:
            try:
                for clip, error in zip(clips, submitters.map(self._submit, clips), strict=True):
                    if error:
                        self._finish(self._row(clip, status="failed", error=str(error)))
            except BaseException:
                self._given_up.set()
                submitters.shutdown(wait=False, cancel_futures=True)
                raise

    def interrupted(self, ends: bool) -> None:
        """Ask what is to happen to the jobs. ends: the farm ends with this program."""
        question = "let the farm continue (d, detach) or stop it (c, cancel)? [d] "
        otherwise = "detached; run it again to fetch the clips and continue"
        if ends:
            question = "stop, to continue when it is run again (s), or cancel all (c)? [s] "
            otherwise = (
                "stopped: the farm was this program's own; run it again to continue where it was, "
                "or with --detach for a farm that keeps running"
            )
        answer = ""
        if sys.stdin.isatty():
            try:
                answer = input(f"\n{question}")
            except (KeyboardInterrupt, EOFError):
                print(file=sys.stderr)
        if answer.strip().lower().startswith("c"):
            with ThreadPoolExecutor(SUBMITTERS) as threads:
                list(threads.map(self._cancel, list(self._clips)))
            print("cancelled; run it again for what is missing", file=sys.stderr)
        else:
            print(otherwise, file=sys.stderr)

    def _cancel(self, job: str) -> None:
        try:
            self._farm.cancel(job)
        except FarmError as error:  # it has just finished
            logging.getLogger("farm").info("%s", error)

    def _submit(self, clip: Clip) -> FarmError | None:
        """Submit a clip and record its job; returns the error if the farm refuses it."""
        batch = self._batch
        submission = Submission(
            model=batch.model,
            params=clip.params,
            priority=batch.priority,
            force=batch.force,
            picture_name=clip.picture.name.rpartition("/")[2],
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
        except WorkerError:  # the farm is gone for all clips
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

    def _fetched(self, clip: Clip, job: JobRecord) -> Row:
        """Copy the clip's files to the destination; the row that names them."""
        (result,) = job.results
        row = self._row(
            clip,
            job,
            status="done",
            sha256=result.sha256,
            seconds={stage.value: s for stage, s in result.seconds.items()},
            worker=result.worker,
            digest=result.request.digest,
        )
        files = dict(zip((row.video, row.thumbnail), fetch(self._store, result), strict=True))
        for key, data in files.items():
            self._batch.out.put(key, data)
        self._show_source(clip.picture, row.source)
        contents = {key: Content.of(data) for key, data in files.items()}
        return row.model_copy(update={"files": contents})

    def _show_source(self, picture: Picture, key: str) -> None:
        """Write a picture for the page, which can do without it if it is gone by now."""
        if key not in self._shown:
            self._shown.add(key)
            with suppress(RequestError, ValueError):
                self._batch.out.put(key, small_jpeg(read(picture)))

    def _row(self, clip: Clip, job: JobRecord | None = None, **values: Any) -> Row:
        spent = {}
        if job is not None:
            spent = {"job": job.id, "attempts": job.attempts, "gpu_seconds": job.gpu_seconds}
        return Row(
            name=clip.picture.name,
            picture=clip.picture.source,
            seed=clip.params.seed,
            variation=clip.variation,
            parameters=clip.params,
            model=self._batch.model.name,
            **spent,
            **values,
        )

    def _finish(self, row: Row) -> None:
        self._batch.summary.add(row)
        self._reporter.finished(row)
