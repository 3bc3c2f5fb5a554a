"""What a worker is asked to do, and what it answers."""

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

from farm.model.plan import Task
from farm.model.request import Model, RenderRequest

Ref = Awaitable[Any]  # a task's result, which stays where it was made until it is awaited


@dataclass(frozen=True)
class Part:
    """Which of the workers that share a task this one is."""

    rank: int  # from 0
    size: int  # how many workers share the task
    address: str  # where they meet: host:port


@dataclass(frozen=True)
class Order:
    """An attempt at a task of a clip, as it is sent to a worker."""

    request: RenderRequest  # of one video
    model: Model
    task: Task
    attempt: str  # a unique name; what the attempt stores is named by it
    low_memory: bool = False  # with as little memory as the same pixels need
    part: Part | None = None  # None where one worker does it alone


@dataclass(frozen=True)
class Step:
    """How far a worker is with a task."""

    done: int  # denoising steps of the clip
    previewed: int = 0  # the step of the preview in the store; 0 where there is none


@dataclass(frozen=True)
class Made:
    """The result of muxing: the sha256 of the frames, and the keys of the stored artifacts."""

    sha256: str
    video: str
    thumbnail: str
    sprite_sheet: str
