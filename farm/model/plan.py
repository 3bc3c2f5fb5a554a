"""Request to tasks, with their needs. Pure: the same request always gives the same plan."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from farm.model.request import RenderRequest
from svd_engine.sizes import decoded_frame_bytes


class Stage(StrEnum):
    """What a task does, in the order of a clip's life."""

    ENCODE = "encode"
    DENOISE = "denoise"
    DECODE = "decode"
    MUX = "mux"


class Kind(StrEnum):
    """What a worker keeps in memory: CLIP, the VAE and the UNet, or the VAE alone."""

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
    """One call on one worker."""

    key: str  # of its result, unique in its plan
    stage: Stage
    needs: tuple[str, ...] = ()  # keys of the results it is given, in this order
    span: tuple[int, int] = (0, 0)  # steps (denoise) or frames (decode): first, one after the last
    most: int = 1  # workers that may share it
    frame_bytes: int = 0  # that it takes for each frame, where it is shared

    @property
    def kind(self) -> Kind:
        return KIND_OF[self.stage]


def plan(request: RenderRequest, segment: int, step: int = 0) -> Iterator[Task]:
    """Tasks of a clip that is `step` steps done, one by one; each comes after all that it needs.

    Denoising is cut into segments of so many steps, rounded up to whole intervals of reuse: after
    each one the latents are saved, and another clip or another worker may take its turn. A chunk of
    `decode_chunk_size` frames is a task of its own, as blind to its neighbours as in diffusers, so
    it may be decoded anywhere. Without a chunk size the clip is decoded as one, by as many workers
    as it has frames at most.
    """
    assert request.num_videos == 1
    frames, steps = request.params.num_frames, request.params.steps
    assert frames is not None  # a RenderRequest is resolved
    # What a step reuses is not saved with the latents: a segment begins with a whole step.
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
    """The key of the latents after so many steps, and of what else denoising goes on from."""
    return f"latents/{step:04d}"


def _frames_key(span: tuple[int, int]) -> str:
    return f"frames/{span[0]:04d}-{span[1]:04d}"


def _before(step: int) -> str:
    return latents_key(step) if step else "conditioning"
