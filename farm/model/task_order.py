"""What a worker is told to do, and what it tells of it."""

from dataclasses import dataclass

from farm.model.plan import Task
from farm.model.request import Model, RenderRequest


@dataclass(frozen=True)
class Part:
    """A worker's part in a task that several share."""

    rank: int  # from 0
    size: int  # how many they are
    address: str  # where they meet, host:port


@dataclass(frozen=True)
class Order:
    """A task of a clip, as it is sent to a worker."""

    request: RenderRequest  # of one video
    model: Model
    task: Task
    attempt: str  # of the task: unique, and so are the names of what it stores
    lean: bool = False  # with as little memory as the same pixels need
    part: Part | None = None  # where several share it


@dataclass(frozen=True)
class Step:
    """How far a task is."""

    done: int  # denoising steps of the clip
    previewed: int = 0  # the step that the preview in the store is of; 0 where there is none


@dataclass(frozen=True)
class Made:
    """What muxing made: the sha256 of the frames, and the keys of what was stored."""

    sha256: str
    video: str
    thumbnail: str
    sprite_sheet: str
