"""Turns a request into tasks and their dependencies. Pure: equal requests give equal plans."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from farm.model.request import RenderRequest
from svd_engine.sizes import decoded_frame_bytes


class Stage(StrEnum):
    """What a task does. The stages of a clip follow each other in this order."""

    ENCODE = "encode"
    DENOISE = "denoise"
    DECODE = "decode"
    MUX = "mux"


class Kind(StrEnum):
    """Kinds of workers: a renderer has CLIP, the VAE and the UNet; a decoder has only the VAE."""

    RENDERER = "renderer"
    DECODER = "decoder"


KIND_OF = {
    Stage.ENCODE: Kind.RENDERER,
    Stage.DENOISE: Kind.RENDERER,
    Stage.DECODE: Kind.DECODER,
    Stage.MUX: Kind.DECODER,
}


@dataclass(frozen=True, slots=True)
class Task:
    """One call of one worker."""

    key: str  # names its result, and is unique in its plan
    stage: Stage
    needs: tuple[str, ...] = ()  # keys of the results that it takes, in this order
    span: tuple[int, int] = (0, 0)  # of steps (denoise) or frames (decode), the end excluded
    most: int = 1  # how many workers may share it
    frame_bytes: int = 0  # memory for each frame, if the task is shared

    @property
    def kind(self) -> Kind:
        return KIND_OF[self.stage]


def plan(request: RenderRequest, segment: int, step: int = 0) -> Iterator[Task]:
    """Yield the remaining tasks of a clip after `step` steps, each after the tasks that it needs.

    Denoising is divided into segments of `segment` steps, rounded up to whole intervals of reuse.
    After a segment the latents are saved, so that another clip or another worker can take over. A
    chunk of `decode_chunk_size` frames is a task of its own, which may run anywhere, because chunks
    are independent of each other, as in diffusers. Without a chunk size the clip is decoded as a
    whole, by at most as many workers as it has frames.
    """
    assert request.num_videos == 1
    frames, steps = request.params.num_frames, request.params.steps
    assert frames is not None  # a RenderRequest is resolved
    # The features that steps reuse are not saved, so a segment must begin with a whole step.
    interval = request.params.reuse_interval
    segment += -segment % interval
    if step == 0:
        yield Task("conditioning", Stage.ENCODE)
    for start in range(step - step % segment, steps, segment):
        begin, stop = max(start, step), min(start + segment, steps)
        if begin < stop:
            yield Task(latents_key(stop), Stage.DENOISE, (_before(begin),), (begin, stop))
    size = request.params.decode_chunk_size or frames
    chunks = [(start, min(start + size, frames)) for start in range(0, frames, size)]
    most = 1 if request.params.decode_chunk_size else frames
    needs, frame_bytes = (latents_key(steps),), decoded_bytes(request)
    for span in chunks:
        yield Task(_frames_key(span), Stage.DECODE, needs, span, most, frame_bytes)
    yield Task("video", Stage.MUX, tuple(map(_frames_key, chunks)))


def decoded_bytes(request: RenderRequest) -> int:
    """The memory that an exact decode of the request holds for each frame."""
    width, height = request.params.width, request.params.height
    assert width is not None  # a RenderRequest is resolved
    assert height is not None
    return decoded_frame_bytes(width, height, request.dtype)


def latents_key(step: int) -> str:
    """The key of everything that denoising needs to continue after `step` steps."""
    return f"latents/{step:04d}"


def _frames_key(span: tuple[int, int]) -> str:
    return f"frames/{span[0]:04d}-{span[1]:04d}"


def _before(step: int) -> str:
    return latents_key(step) if step else "conditioning"
