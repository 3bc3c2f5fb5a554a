"""Out of GPU memory: the same pixels with less memory, or a message that says what fits."""

import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch

from farm.errors import GpuMemoryError, MissingError, RequestError, WorkerError
from farm.model.plan import Kind, Stage, Task, decoded_bytes
from farm.model.request import Model, RenderRequest, digest_of
from farm.model.task_order import Order, Step
from farm.scheduling.worker_choice import PASSING
from farm.store import open_store
from farm.workers.engines import describe
from farm.workers.memory import GIB, MARGIN, Gpu, what_fits
from farm.workers.worker import Worker
from svd_engine import RenderParams, stages
from svd_engine.bench.networks import PRESETS
from svd_engine.memory_plan import CUBLAS, plan_stage
from tests.support.farm_jobs import SMALL, picture_bytes


def order(model: Path, task: Task, low_memory: bool = False, **changes: Any) -> Order:
    facts = describe(Model(name=str(model)))
    params = RenderParams(**{**SMALL, **changes}).resolve(facts.defaults)
    request = RenderRequest(
        picture=digest_of(picture_bytes()), weights=facts.digest, dtype="float32", params=params
    )
    return Order(request, Model(name=str(model)), task, "1-1", low_memory)


def steps_and_result(work: Generator[Step, bool | None, Any]) -> tuple[list[int], Any]:
    """What a worker's task yields, and what it returns."""
    steps = []
    while True:
        try:
            steps.append(next(work).done)
        except StopIteration as end:
            return steps, end.value


ENCODE = Task("conditioning", Stage.ENCODE)
DENOISE = Task("latents/0002", Stage.DENOISE, ("conditioning",), (0, 2))
DECODE = Task("frames/0000-0005", Stage.DECODE, ("latents/0002",), (0, 5))


@pytest.fixture
def store(tmp_path: Path) -> str:
    open_store(str(tmp_path)).put(f"pictures/{digest_of(picture_bytes())}", picture_bytes())
    return str(tmp_path)


def test_lean_tasks_make_the_same_pixels(tiny: Path, store: str) -> None:
    made = []
    for low_memory in (False, True):
        renderer, decoder = (Worker(kind, "cpu", open_store(store)) for kind in Kind)
        _, conditioning = steps_and_result(renderer.run(order(tiny, ENCODE, low_memory)))
        work = renderer.run(order(tiny, DENOISE, low_memory), conditioning)
        steps, latents = steps_and_result(work)
        assert steps == [0, 1, 2]  # loaded, and two steps
        _, frames = steps_and_result(decoder.run(order(tiny, DECODE, low_memory), latents))
        made.append(frames)
    assert (made[0] == made[1]).all()


def test_a_checkpoint_takes_the_place_of_a_lost_result(tiny: Path, store: str) -> None:
    renderer = Worker(Kind.RENDERER, "cpu", open_store(store))
    _, conditioning = steps_and_result(renderer.run(order(tiny, ENCODE)))
    _, latents = steps_and_result(renderer.run(order(tiny, DENOISE), conditioning))
    rest = Task("latents/0005", Stage.DENOISE, ("latents/0002",), (2, 5))
    _, kept = steps_and_result(renderer.run(order(tiny, rest), latents))
    renderer._files.finish_writing()
    other = Worker(Kind.RENDERER, "cpu", open_store(store))
    nothing_left = Task("latents/0005", Stage.DENOISE, (), (5, 5))
    _, again = steps_and_result(other.run(order(tiny, nothing_left), None))
    assert torch.equal(again.latents, kept.latents)
    assert not open_store(store).exists(f"checkpoints/{order(tiny, rest).request.digest}/0002")


def test_out_of_memory_is_told_from_other_faults(
    tiny: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(stages, "encode", refuse)
    with pytest.raises(GpuMemoryError, match="smaller width and height would fit"):
        list(Worker(Kind.RENDERER, "cpu", open_store(store)).run(order(tiny, ENCODE)))
    monkeypatch.undo()
    open_store(store).put(f"pictures/{digest_of(picture_bytes())}", b"nonsense")
    with pytest.raises(RequestError, match="was damaged"):
        list(Worker(Kind.RENDERER, "cpu", open_store(store)).run(order(tiny, ENCODE)))


def test_what_is_gone_from_the_store_is_told_from_a_store_that_is_away(
    tiny: Path, tmp_path: Path
) -> None:
    renderer = Worker(Kind.RENDERER, "cpu", open_store(str(tmp_path)))
    with pytest.raises(RequestError, match="the picture is gone from the farm's store"):
        list(renderer.run(order(tiny, ENCODE)))
    rest = Task("latents/0005", Stage.DENOISE, ("latents/0002",), (2, 5))
    with pytest.raises(MissingError, match=r"checkpoints/.*0002.safetensors is gone"):
        list(renderer.run(order(tiny, rest), None))


def test_weights_of_another_digest_are_not_used(tiny: Path, store: str) -> None:
    asked = order(tiny, ENCODE)
    request = asked.request.model_copy(update={"weights": "0" * 64})
    other = Order(request, asked.model, ENCODE, "1-1")
    with pytest.raises(WorkerError, match=r"cannot load .* its weights are"):
        list(Worker(Kind.RENDERER, "cpu", open_store(store)).run(other))


@pytest.mark.parametrize(
    ("task", "low_memory", "words"),
    [
        (DECODE, False, r"decode of 5 frames of 64 x 48 in float32; about 2 frames would fit: try"),
        (DECODE, True, r"everything else moved off the GPU.*decode_chunk_size=2"),
        (DENOISE, False, r"denoise of 5 frames.*num_frames=2"),
        (ENCODE, False, r"smaller width and height"),
    ],
)
def test_what_fits_where_nothing_is_known(
    task: Task, low_memory: bool, words: str, tiny: Path
) -> None:
    assert re.search(words, what_fits(order(tiny, task, low_memory), None))


def needs(stage: Stage, params: RenderParams) -> int:
    """4 GiB of weights, and one for each frame of 64 x 48."""
    assert params.num_frames is not None
    assert params.width is not None
    frames = 1 if stage is Stage.ENCODE else params.num_frames
    return 4 * GIB + GIB * frames * params.width // 64


@pytest.mark.parametrize(
    ("task", "total", "others", "words"),
    [
        (DENOISE, 24, 0, r"num_frames=17"),  # 0.9 x 24 - 4
        (DENOISE, 24, 6, r"35.0 GiB wanted, 24.0 GiB there.*num_frames=11"),
        (Task("frames", Stage.DECODE, (), (0, 25)), 24, 0, r"decode of 25 .*decode_chunk_size=17"),
        (Task("frames", Stage.DECODE, (), (0, 5)), 8, 0, r"decode of 5 .*decode_chunk_size=3"),
        (DENOISE, 100, 0, r"about 24 frames"),  # what ran out was somebody else's: fewer, at least
        (DENOISE, 4, 0, r"; a smaller width and height would fit, or a larger GPU"),
        (ENCODE, 5, 0, r"encode .*about 32 x 24 would fit"),
    ],
)
def test_what_fits_by_what_is_needed(
    task: Task, total: int, others: int, words: str, tiny: Path
) -> None:
    gpu = Gpu(needs, total * GIB, others * GIB)
    assert re.search(words, what_fits(order(tiny, task, num_frames=25), gpu))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_what_a_shared_decode_is_thought_to_take_is_what_the_plan_says(dtype: str) -> None:
    """The scheduler, which is pure, multiplies; the engine's plan runs the published decoder."""
    published = PRESETS["svd-xt"]
    params = published.params.model_copy(update={"width": 256, "height": 192})

    def planned(frames: int) -> int:
        of_frames = params.model_copy(update={"num_frames": frames})
        shapes, kind = published.shapes, getattr(torch, dtype)
        return plan_stage(shapes, of_frames, "decode", "cuda", kind).activations - CUBLAS

    request = RenderRequest(picture="0" * 64, weights="0" * 64, dtype=dtype, params=params)
    each = decoded_bytes(request)
    assert planned(6) - planned(5) == pytest.approx(each, rel=0.01)
    assert planned(6) <= 1.01 * (6 + PASSING) * each


def test_a_worker_asks_the_plan(tiny: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    worker, asked = Worker(Kind.RENDERER, "cpu", open_store(store)), order(tiny, DENOISE)
    engine = worker._load(asked)
    params = asked.request.params
    wanted = [
        engine.bytes_needed(Stage.DENOISE, params.model_copy(update={"num_frames": frames}))
        for frames in (3, 5)
    ]
    monkeypatch.setattr(worker, "_device", torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (0, int(wanted[0] / MARGIN) + 99))
    gpu = worker._gpu(asked)
    assert gpu is not None
    assert gpu.needs(Stage.DENOISE, params) == wanted[1]
    assert "about 3 frames would fit: try num_frames=3" in what_fits(asked, gpu)
