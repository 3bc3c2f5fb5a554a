"""What `/v1/videos` answers: the server builds these models, and its client reads them.

A client may be newer than its server, so a field that is added later needs a default.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from farm.model.job import JobRecord, JobView, Progress, State
from farm.model.plan import Stage
from svd_engine.params import Dtype, RenderParams

STATUS: dict[State, Literal["queued", "in_progress", "completed", "failed"]] = {
    State.QUEUED: "queued",
    State.RUNNING: "in_progress",
    State.PAUSED: "queued",
    State.CANCELLING: "in_progress",
    State.COMPLETED: "completed",
    State.FAILED: "failed",
    State.CANCELLED: "failed",  # OpenAI's client keeps waiting at any status it does not know
}


class ErrorDetail(BaseModel):
    """What was wrong, which parameter, and a word for programs."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """The body of every answer that is not 2xx or 3xx."""

    error: ErrorDetail


class VideoError(BaseModel):
    """Why there is no video."""

    message: str
    code: str
    param: str | None = None
    type: str = "video_error"


class Video(BaseModel):
    """A job: the fields of OpenAI's Video, and those that this farm adds."""

    model_config = ConfigDict(frozen=True, json_schema_serialization_defaults_required=True)

    id: str
    object: Literal["video"] = "video"
    created_at: int
    completed_at: int | None = None
    model: str
    variant: str | None = None  # which weights of the model
    dtype: Dtype = "float32"
    name: str = ""  # of the picture's file, without its suffix
    params: RenderParams | None = None  # of its first clip; None from a server that is older
    progress: int
    seconds: str
    size: str
    status: Literal["queued", "in_progress", "completed", "failed"]
    error: VideoError | None = None
    state: State
    stage: Stage | None = None
    step: int
    steps: int
    chunk: int
    chunks: int
    queue_position: int | None = None
    eta_s: float | None = None
    blocked: str | None = None  # why no worker can take it
    busy: bool = False  # a worker is at it; of a paused video: until some more steps are done
    share: float | None = None  # what `progress` is made of, from 0 to 1; None while untimed
    seed: int
    num_frames: int
    fps: int
    num_videos: int
    tier: str = "exact"  # or the name of an approximation
    reuse_interval: int = 1
    deviations: tuple[str, ...] = ()  # known mistakes that were asked for
    priority: int
    gpu_seconds: float
    attempts: int

    @property
    def work(self) -> Progress:
        """How far the job is, in steps and chunks; `progress` is the percentage."""
        return Progress(**{name: getattr(self, name) for name in Progress.model_fields})


class VideoList(BaseModel):
    """A page of videos; the next one comes after `last_id`."""

    object: Literal["list"] = "list"
    data: list[Video]
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool


class VideoDeleted(BaseModel):
    """The answer to a deletion."""

    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: Literal[True] = True


class Check(BaseModel):
    """The job that a request would make, and the work it would take."""

    object: Literal["video.check"] = "video.check"
    video: Video
    unet_steps: int
    videos_done: int  # of `num_videos`, those that are in the store already


def video_of(view: JobView) -> Video:
    """The video as it is now."""
    job, progress = view.job, view.progress
    params = job.request.params
    ended = job.state is State.COMPLETED and job.finished_at is not None
    return Video(
        id=job.id,
        created_at=int(job.created_at),
        completed_at=int(job.finished_at or 0) if ended else None,
        model=job.model.name,
        variant=job.model.variant,
        dtype=job.model.dtype,
        name=job.picture_name,
        params=params,
        progress=_percent(job, progress),
        seconds=f"{params.frames / params.fps:g}",
        size=f"{params.width}x{params.height}",
        status=STATUS[job.state],
        error=_error(job),
        state=job.state,
        **progress.model_dump(),
        seed=params.seed,
        num_frames=params.frames,
        fps=params.fps,
        num_videos=job.request.num_videos,
        tier=params.tier,
        reuse_interval=params.reuse_interval,
        deviations=params.deviations,
        priority=job.priority,
        gpu_seconds=job.gpu_seconds,
        attempts=job.attempts,
    )


def _percent(job: JobRecord, progress: Progress) -> int:
    """How much is done; 100 only once the job is completed."""
    return 100 if job.state is State.COMPLETED else min(99, int(100 * progress.fraction))


def _error(job: JobRecord) -> VideoError | None:
    if job.state is State.CANCELLED:
        return VideoError(message="the job was cancelled", code="cancelled")
    if job.state is State.FAILED:
        return VideoError(message=job.error or "the job failed", code="failed")
    return None
