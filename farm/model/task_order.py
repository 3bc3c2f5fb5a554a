"""The orders that workers get, and what they report and return."""

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

from farm.model.plan import Task
from farm.model.request import Model, RenderRequest
from farm.model.trail import NO_TRAIL, Trail

Ref = Awaitable[Any]  # a task's result, which stays where it was made until it is awaited


@dataclass(frozen=True)
class Part:
    """A worker's place among those that share a task."""

    rank: int  # from 0
    size: int  # how many workers share the task
    address: str  # of their rendezvous: host:port


@dataclass(frozen=True)
class Order:
    """An attempt at a task of a clip, as it is sent to a worker."""

    request: RenderRequest  # of one video
    model: Model
    task: Task
    attempt: str  # a unique name, under which the attempt stores its files
    low_memory: bool = False  # whether to use as little GPU memory as the same pixels allow
    part: Part | None = None  # None if one worker does the whole task
    trail: Trail = NO_TRAIL  # the job that it is for


@dataclass(frozen=True)
class Step:
    """A worker's progress with a task."""

    done: int  # denoising steps of the clip
    previewed: int = 0  # the step of the preview in the store; 0 if there is none


@dataclass(frozen=True)
class Made:
    """The result of muxing: the sha256 of the frames, and the artifacts' bytes and keys."""

    sha256: str
    bytes: int  # of all artifacts
    video: str
    thumbnail: str
    sprite_sheet: str
