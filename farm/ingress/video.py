"""A job as the Video of `/v1/videos`."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from farm.model.job import Job, JobView, Progress, State
from farm.model.plan import Stage

STATUS: dict[State, Literal["queued", "in_progress", "completed", "failed"]] = {
    State.QUEUED: "queued",
    State.RUNNING: "in_progress",
    State.PAUSED: "queued",
    State.CANCELLING: "in_progress",
    State.COMPLETED: "completed",
    State.FAILED: "failed",
    State.CANCELLED: "failed",  # OpenAI's client waits on for any status it does not know
}


class VideoError(BaseModel):
    """Why a video is not to be had."""

    message: str
    code: str
    param: str | None = None
    type: str = "video_error"


class Video(BaseModel):
    """OpenAI's Video; from `state` on, what this farm says beside it."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)

    id: str
    object: Literal["video"] = "video"
    created_at: int
    completed_at: int | None = None
    model: str
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
    blocked: str | None = None  # why no worker is there for it
    seed: int
    num_frames: int
    fps: int
    num_videos: int
    tier: str  # exact, or which approximation
    reuse_interval: int
    deviations: tuple[str, ...] = ()  # known mistakes that were asked for
    priority: int
    gpu_seconds: float
    attempts: int


class VideoList(BaseModel):
    """A page of videos; the next one comes after `last_id`."""

    object: Literal["list"] = "list"
    data: list[Video]
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool


class VideoDeleted(BaseModel):
    """A video that is no more."""

    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: Literal[True] = True


class Check(BaseModel):
    """What a request would be, and would take."""

    object: Literal["video.check"] = "video.check"
    video: Video
    unet_steps: int
    videos_done: int  # of `num_videos`, in the store already


def video_of(view: JobView) -> Video:
    """The video as it is now."""
    job, progress = view.job, view.progress
    params = job.request.params
    frames = params.num_frames or 0
    ended = job.state is State.COMPLETED and job.finished_at is not None
    return Video(
        id=job.id,
        created_at=int(job.created_at),
        completed_at=int(job.finished_at or 0) if ended else None,
        model=job.model.name,
        progress=percent(job, progress),
        seconds=f"{frames / params.fps:g}",
        size=f"{params.width}x{params.height}",
        status=STATUS[job.state],
        error=_error(job),
        state=job.state,
        **progress.model_dump(),
        seed=params.seed,
        num_frames=frames,
        fps=params.fps,
        num_videos=job.request.num_videos,
        tier=params.tier,
        reuse_interval=params.reuse_interval,
        deviations=params.deviations,
        priority=job.priority,
        gpu_seconds=job.gpu_seconds,
        attempts=job.attempts,
    )


def percent(job: Job, progress: Progress) -> int:
    """How much is done, by steps and chunks; 100 only when all of it is."""
    if job.state is State.COMPLETED:
        return 100
    done, whole = progress.step + progress.chunk, progress.steps + progress.chunks
    return min(99, 100 * done // max(1, whole))


def _error(job: Job) -> VideoError | None:
    if job.state is State.CANCELLED:
        return VideoError(message="the job was cancelled", code="cancelled")
    if job.state is State.FAILED:
        return VideoError(message=job.error or "the job failed", code="failed")
    return None
