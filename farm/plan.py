"""Request to tasks, with their needs. Pure: the same request always gives the same plan."""

from dataclasses import dataclass
from enum import StrEnum

from farm.request import RenderRequest


class Stage(StrEnum):
    """What a task does, in the order of a clip's life."""

    ENCODE = "encode"
    DENOISE = "denoise"
    DECODE = "decode"
    MUX = "mux"


@dataclass(frozen=True)
class Task:
    """One call on one worker."""

    key: str  # of the result, unique in its plan
    stage: Stage
    needs: tuple[str, ...] = ()  # keys of the results it is given, in this order
    frames: tuple[int, int] | None = None  # decode: first frame, and the one after the last


def plan(request: RenderRequest) -> tuple[Task, ...]:
    """Tasks of a clip; each comes after all that it needs.

    A chunk of `decode_chunk_size` frames is a task of its own, as blind to its neighbours as in
    diffusers, so it may be decoded anywhere. Without a chunk size the clip is decoded as one.
    """
    frames = request.params.num_frames
    assert frames is not None  # a RenderRequest is resolved
    size = request.params.decode_chunk_size or frames
    chunks = [(start, min(start + size, frames)) for start in range(0, frames, size)]
    decodes = [
        Task(f"decode/{start:04d}-{stop:04d}", Stage.DECODE, ("denoise",), (start, stop))
        for start, stop in chunks
    ]
    return (
        Task("encode", Stage.ENCODE),
        Task("denoise", Stage.DENOISE, ("encode",)),
        *decodes,
        Task("mux", Stage.MUX, tuple(task.key for task in decodes)),
    )
