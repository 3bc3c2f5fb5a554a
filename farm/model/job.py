"""The record of a job, its states, and the table of transitions between them. Pure."""

import secrets
import time
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict

from farm.artifacts import ARTIFACTS, ArtifactName
from farm.errors import ConflictError, JobError
from farm.model.filenames import PictureName
from farm.model.plan import Stage
from farm.model.progress_words import in_words
from farm.model.request import UNCOUNTED, Model, RenderRequest, Sha256
from farm.store.keys import Name, clip_of, job_key, open_key, result_key
from farm.store.records import Record
from svd_engine.params import RenderParams
from svd_engine.values import Flag, Whole, number


class State(StrEnum):
    """The state of a job."""

    QUEUED = "queued"  # no worker has started it
    RUNNING = "running"
    PAUSED = "paused"
    CANCELLING = "cancelling"  # it was asked to stop; a worker is still busy with a step or chunk
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_open(self) -> bool:
        return self not in (State.COMPLETED, State.FAILED, State.CANCELLED)


class Event(StrEnum):
    """An event that changes the state of a job."""

    START = "start"  # a worker has started
    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"
    STOPPED = "stopped"  # after a cancel, the last worker has left it
    COMPLETE = "complete"  # all its clips are in the store
    FAIL = "fail"
    RECOVER = "recover"  # a new coordinator found it open, with no worker


_OPEN = (State.QUEUED, State.RUNNING, State.PAUSED)
TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.QUEUED, Event.START): State.RUNNING,
    (State.QUEUED, Event.PAUSE): State.PAUSED,
    (State.RUNNING, Event.PAUSE): State.PAUSED,
    (State.PAUSED, Event.RESUME): State.QUEUED,
    (State.QUEUED, Event.RECOVER): State.QUEUED,
    (State.RUNNING, Event.RECOVER): State.QUEUED,
    (State.PAUSED, Event.RECOVER): State.PAUSED,
    (State.CANCELLING, Event.RECOVER): State.CANCELLED,
    (State.CANCELLING, Event.CANCEL): State.CANCELLING,  # asked twice
    (State.CANCELLING, Event.STOPPED): State.CANCELLED,
    **{(state, Event.CANCEL): State.CANCELLING for state in _OPEN},
    **{(state, Event.COMPLETE): State.COMPLETED for state in _OPEN},
    **{(state, Event.FAIL): State.FAILED for state in _OPEN},
}


LOG_PAGE = 1000  # log entries in a page, at least; a page with fewer is the last

Seconds = Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False), BeforeValidator(number)]


class ClipResult(Record):
    """A clip in the store: how it was made, and the keys of its artifacts."""

    request: RenderRequest  # of one video
    sha256: str = Sha256  # of the frames' bytes, (F, H, W, 3) uint8
    video: str
    thumbnail: str
    sprite_sheet: str
    bytes: int = 0  # of its artifacts; 0 in records of earlier versions
    seconds: dict[Stage, float]
    gpu_seconds: float  # of worker time, lost attempts included
    attempts: int
    worker: str  # the last renderer, as name@address:pid
    fence: int  # the fencing token of the coordinator that committed it
    finished_at: float

    @property
    def own_key(self) -> str | None:
        # Clips that are older than NUMERICS were named in another way.
        counted = self.request.numerics != UNCOUNTED
        return result_key(self.request.digest) if counted else None

    def key(self, name: ArtifactName) -> str:
        """The store's key of one of its artifacts."""
        key: str = getattr(self, ARTIFACTS[name].field)
        return key

    def artifact_keys(self) -> set[str]:
        """The store's keys of all its artifacts."""
        return {self.key(name) for name in ARTIFACTS}

    @property
    def clip(self) -> str | None:
        """The name of the clip in the store, by which its artifacts are found."""
        return clip_of(self.video)

    @property
    def paid_for(self) -> bool:
        """Whether the job that has this result was charged for it."""
        return self.gpu_seconds > 0

    def free_of_charge(self) -> "ClipResult":
        """The result as it is charged to a job that did not pay for it."""
        return self.model_copy(update={"gpu_seconds": 0.0, "seconds": {}})


class JobOptions(BaseModel):
    """The parameters that change no pixel of any clip: how many, for whom, when and how urgently.

    All parameters that do change pixels are fields of `RenderParams` or of `Model`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    num_videos: Whole = Field(
        1, ge=1, le=1000, description="number of clips, with consecutive seeds from `seed` on"
    )
    priority: Whole = Field(50, ge=0, le=100, description="higher goes first among a tenant's jobs")
    force: Flag = Field(False, description="render again, even if the clips exist")
    tenant: Name = Field("default", description="whose job it is; over HTTP the key decides")
    start_within_s: Seconds | None = Field(
        None, description="fail the job if it has not started by then, in seconds"
    )
    finish_within_s: Seconds | None = Field(
        None, description="fail the job if it is not finished by then, in seconds"
    )
    webhook_url: str | None = Field(
        None, max_length=2048, description="a URL that is called when the job has ended"
    )


class Submission(JobOptions):
    """What a client asks for; the picture travels beside it."""

    id: Name = Field(default_factory=lambda: new_job_id())
    model: Model = Model()
    params: RenderParams = RenderParams()
    picture_name: PictureName = ""  # of the picture's file; clips are saved under it
    # Submissions with the same key are the same job. With an empty key, equal requests are, for a
    # while.
    idempotency_key: str | None = None


class JobRecord(Record):
    """The record of a job in the store. Times are in seconds since 1970."""

    id: str
    tenant: str = "default"
    model: Model
    request: RenderRequest
    priority: int = 50
    force: bool = False
    start_within_s: float | None = None
    finish_within_s: float | None = None
    webhook_url: str | None = None
    picture_name: str = ""
    claim: str | None = None  # the store's key of the claim of its idempotency key
    request_id: str | None = None  # of the call by which it was submitted
    traceparent: str | None = None  # the span of that call, if it is traced
    state: State = State.QUEUED
    created_at: float
    created_on: float | None = None  # by the farm's clock, which deadlines use (`FarmClock`)
    started_at: float | None = None
    finished_at: float | None = None
    fence: int = 0  # the fencing token of the coordinator that wrote this record
    results: tuple[ClipResult, ...] = ()  # of finished clips, in the order of their seeds
    error: str | None = None
    attempts: int = 0
    gpu_seconds: float = 0.0
    seconds: dict[Stage, float] = Field(default_factory=dict)

    @property
    def own_key(self) -> str:
        return job_key(self.id)

    def due(self) -> tuple[float, str] | None:
        """The next deadline by the farm's clock, and the error of a job that misses it, if any."""
        deadlines = []
        begin = self.created_at if self.created_on is None else self.created_on
        if self.start_within_s is not None and self.started_at is None:
            text = f"not started within {self.start_within_s:g} s"
            deadlines.append((begin + self.start_within_s, text))
        if self.finish_within_s is not None:
            text = f"not finished within {self.finish_within_s:g} s"
            deadlines.append((begin + self.finish_within_s, text))
        return min(deadlines, default=None)

    def missing_clips(self) -> tuple[RenderRequest, ...]:
        """The clips that the job has no results of yet.

        The results of an earlier coordinator stay, even if they are of other numerics.
        """
        clips = self.request.clips()
        if not self.results:
            return clips
        there = {result.request.asked for result in self.results}
        return tuple(request for request in clips if request.asked not in there)

    def wants(self, clip: RenderRequest) -> bool:
        """Whether it has this clip, or waits for it while it is open."""
        return (self.state.is_open and self.request.includes(clip)) or any(
            result.request.digest == clip.digest for result in self.results
        )


class Opened(Record):
    """An entry of the index of open jobs, of which only the key matters."""

    job: str
    tenant: str

    @property
    def own_key(self) -> str:
        return open_key(self.job)


class Progress(BaseModel):
    """How far a job is, over all its clips; its text is for people."""

    model_config = ConfigDict(frozen=True)

    stage: Stage | None = None  # the latest stage of any of its clips
    step: int = 0
    steps: int
    chunk: int = 0
    chunks: int
    queue_position: int | None = None  # jobs ahead of it; None once it has started
    eta_s: float | None = None  # until it is finished; None while nothing was timed
    blocked: str | None = None  # why no worker can take it
    busy: bool = False  # a worker is at it; of a paused job: until its segment of steps ends
    # The share of the time it needs, which is behind it, decoding and storing included; None while
    # a stage was never timed.
    share: float | None = None

    def __str__(self) -> str:
        return in_words(self)

    @classmethod
    def of(cls, job: "JobRecord", step: int = 0, chunk: int = 0, **more: Any) -> "Progress":
        """The progress of a job; step and chunk are the sums over its unfinished clips."""
        params, count, done = job.request.params, job.request.num_videos, len(job.results)
        frames = params.num_frames or 1  # a request's is never None
        chunks = -(-frames // (params.decode_chunk_size or frames))
        return cls(
            step=done * params.steps + step,
            steps=count * params.steps,
            chunk=done * chunks + chunk,
            chunks=count * chunks,
            **more,
        )

    @property
    def fraction(self) -> float:
        """How much is done, from 0 to 1: by the time it needs, or else by steps and chunks."""
        if self.share is not None:
            return self.share
        return (self.step + self.chunk) / max(1, self.steps + self.chunks)


class JobView(BaseModel):
    """A job and its progress."""

    model_config = ConfigDict(frozen=True)

    job: JobRecord
    progress: Progress


class LogEntry(Record):
    """An entry of a job's event log; `seq` counts from 1."""

    job: str = ""  # empty in entries of earlier versions
    seq: int
    at: float
    event: str
    data: dict[str, Any] = Field(default_factory=dict)


def new_job_id() -> str:
    """A unique id; ids sort by the time they were made."""
    return f"job-{int(time.time() * 1000):011x}{secrets.token_hex(5)}"


def advance(job: JobRecord, event: Event, now: float, fence: int, **changes: Any) -> JobRecord:
    """The job after an event. fence: the fencing token of the coordinator that reports the event.

    Raises JobError if the job's state does not allow the event, and ConflictError if the job
    belongs to a later coordinator.
    """
    if fence < job.fence:
        raise ConflictError(f"{job.id} belongs to coordinator {job.fence}, this is {fence}")
    state = TRANSITIONS.get((job.state, event))
    if state is None:
        raise JobError(f"{job.id} is {job.state}: it cannot {event}")
    if event == Event.START and job.started_at is None:
        changes |= {"started_at": now}
    if not state.is_open:
        changes |= {"finished_at": now}
    return job.model_copy(update={"state": state, "fence": fence} | changes)
