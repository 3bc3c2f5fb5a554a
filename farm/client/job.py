"""`farm.Job`, a client's handle of a job, for every kind of connection."""

import time
from collections.abc import Iterable, Iterator
from html import escape
from os import PathLike
from pathlib import Path

from farm.artifacts import ArtifactName
from farm.client.progress_bar import describe, open_bar
from farm.client.remote import Remote
from farm.errors import (
    FarmError,
    JobCancelledError,
    JobError,
    JobFailedError,
    RequestError,
)
from farm.model.job import LogEntry, Progress, State
from farm.model.wire import Video
from farm.quantities import counted
from svd_engine import video as videos
from svd_engine.player import player

PLAYED = 4  # clips that a notebook shows for one job


class Job:
    """A handle of a job. Its properties ask the farm until the job is finished."""

    def __init__(self, remote: Remote, video: Video) -> None:
        self._remote, self._seen = remote, video

    def __repr__(self) -> str:
        return f"<farm.Job {self.id} {self._seen.state.value}>"

    @property
    def id(self) -> str:
        """The job's id, which is the same over HTTP, in Python and in a batch."""
        return self._seen.id

    @property
    def status(self) -> str:
        """queued, running, paused, cancelling, completed, failed or cancelled."""
        return self._look().state.value

    @property
    def progress(self) -> Progress:
        """The job's progress: fraction, stage, step, steps, queue_position, eta_s; `str()` of it is
        a sentence, such as `denoising, step 12 of 25, about 8 s left`.
        """
        return self._look().work

    @property
    def error(self) -> str | None:
        """Why the job failed; None if it has not."""
        return _reason(self._look())

    def wait(self, timeout: float | None = None, progress: bool | None = None) -> "Job":
        """Wait until the job is completed, and return it.

        timeout: in seconds; then TimeoutError is raised, and the job continues. progress: whether
        to show a bar (default: on a terminal and in a notebook). Raises JobFailedError or
        JobCancelledError if there will be no clips.
        """
        until = None if timeout is None else time.monotonic() + timeout
        if self._seen.state.is_open:
            with open_bar(self._seen, progress) as show:
                for news in self._remote.watch([self.id], until):
                    for self._seen in news:
                        show(self._seen)
        if self._seen.state.is_open:
            raise TimeoutError(
                f"{self.id} is not finished after {timeout:g} s, and continues: "
                f"{describe(self._seen)}"
            )
        return self._completed()

    def save(self, path: str | PathLike[str], video: int = 0) -> Path:
        """Write the job's clip to a file, and return its path.

        path: the suffix chooses the format. .mp4 is the farm's own file; .webm, .gif and .webp, or
        a folder of .png frames if there is no suffix, are converted from it here. video: which of
        several clips, from 0, in the order of their seeds.

        Raises ValueError for another suffix, JobError while the job is not finished, and
        JobFailedError or JobCancelledError if it has no clips.
        """
        path = Path(path)
        if path.suffix.lower() == ".mp4":
            data = self._content("video", video)
            with videos.replacing(path) as scratch:
                scratch.write_bytes(data)
            return path
        if path.suffix.lower() not in videos.SUFFIXES:
            raise ValueError(f"cannot write {path.suffix!r}: give .mp4, .webm, .gif or .webp")
        return videos.save(self.frames(video), self._seen.fps, path)

    def frames(self, video: int = 0) -> videos.Frames:
        """A clip's frames, (F, H, W, 3) of uint8, decoded from the mp4, which is lossy."""
        return videos.decode_video(self._content("video", video))

    def thumbnail(self, video: int = 0) -> bytes:
        """A clip's first frame as a small JPEG file."""
        return self._content("thumbnail", video)

    def cancel(self) -> None:
        """Cancel the job, and return once it has stopped, at its next step or chunk.

        A finished job stays as it is.
        """
        if self._look().state.is_open:
            self._seen = self._remote.cancel(self.id)

    def events(self, after: int = 0) -> Iterator[LogEntry]:
        """Yield the job's event log after entry `after` as it grows, until the job is finished."""
        return self._remote.events(self.id, after)

    def _look(self) -> Video:
        if self._seen.state.is_open:
            self._seen = self._remote.state(self.id)
        return self._seen

    def _content(self, artifact: ArtifactName, video: int) -> bytes:
        self._completed()
        count = self._seen.num_videos
        if not 0 <= video < count:
            raise RequestError(f"video: {self.id} has {count}, counted from 0; got {video}")
        return self._remote.content(self.id, artifact, video)

    def _completed(self) -> "Job":
        """Return the job if it is completed; otherwise raise a JobError."""
        now = self._look()
        if now.state is State.FAILED:
            raise JobFailedError(f"{self.id} failed: {_reason(now)}")
        if now.state is State.CANCELLED:
            raise JobCancelledError(f"{self.id} was cancelled")
        if now.state is not State.COMPLETED:
            raise JobError(f"{self.id} is {now.state}: wait() for it first")
        return self

    def _repr_html_(self) -> str:
        """Show the job in a notebook: its clips, or its progress."""
        try:
            now = self._look()
            if now.state is State.COMPLETED:
                return self._players(now.num_videos)
            text, bar = describe(now), f'<progress value="{now.progress}" max="100"></progress> '
            if now.error:
                text, bar = f"{now.state}: {_reason(now)}", ""
        except FarmError as error:
            text, bar = str(error), ""
        return f"<code>{escape(self.id)}</code> {bar}{escape(text)}"

    def _players(self, count: int) -> str:
        clips = [self._content("video", video) for video in range(min(count, PLAYED))]
        seen = self._seen
        what = f"{counted(seen.num_frames, 'frame')} of {seen.size} at {seen.fps} fps"
        width = int(seen.size.partition("x")[0])
        captions = (f"{self.id} · seed {seen.seed + n} · {what}" for n in range(count))
        players = "\n".join(
            player(clip, width, caption) for clip, caption in zip(clips, captions, strict=False)
        )
        rest = f"\n<p>and {count - PLAYED} more: save(path, video=N)</p>" if count > PLAYED else ""
        return players + rest


def _reason(video: Video) -> str | None:
    return video.error.message if video.error else None


def as_completed(jobs: Iterable[Job], timeout: float | None = None) -> Iterator[Job]:
    """Yield jobs as they finish, whether completed, failed or cancelled.

    timeout: in seconds; if jobs are still open then, TimeoutError is raised, and they continue.
    """
    until = None if timeout is None else time.monotonic() + timeout
    farms: dict[Remote, dict[str, Job]] = {}
    for job in jobs:
        farms.setdefault(job._remote, {})[job.id] = job
    watches = [(waiting, farm.watch(list(waiting), until)) for farm, waiting in farms.items()]
    while watches:
        for watch in list(watches):
            waiting, changes = watch
            news = next(changes, None)
            if news is None:
                watches.remove(watch)
            for video in news or ():
                waiting[video.id]._seen = video
                if not video.state.is_open:
                    yield waiting.pop(video.id)
    still_open = [name for waiting in farms.values() for name in waiting]
    if still_open:
        raise TimeoutError(
            f"{counted(len(still_open), 'job')} still open after {timeout:g} s: "
            f"{', '.join(still_open[:3])}"
        )
