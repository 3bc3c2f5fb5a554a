"""Out of GPU memory: the same pixels with less of it, or a message that says what would fit."""

import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch

from farm.engines import describe
from farm.errors import GpuMemoryError, MissingError, RequestError, WorkerError
from farm.memory import GIB, what_fits
from farm.order import Order, Step
from farm.plan import Kind, Stage, Task
from farm.request import Model, RenderRequest, digest_of
from farm.store import open_store
from farm.workers import Worker
from svd_engine import RenderParams, stages
from tests.farm_jobs import SMALL, picture_bytes


def order(model: Path, task: Task, lean: bool = False, **changes: Any) -> Order:
    facts = describe(Model(name=str(model)))
    params = RenderParams(**{**SMALL, **changes}).resolve(facts.defaults)
    request = RenderRequest(
        picture=digest_of(picture_bytes()), weights=facts.digest, dtype="float32", params=params
    )
    return Order(request, Model(name=str(model)), task, "1-1", lean)


def steps_and_result(work: Generator[Step, None, Any]) -> tuple[list[int], Any]:
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
    for lean in (False, True):
        renderer, decoder = (Worker(kind, "cpu", open_store(store)) for kind in Kind)
        _, conditioning = steps_and_result(renderer.run(order(tiny, ENCODE, lean)))
        work = renderer.run(order(tiny, DENOISE, lean), conditioning)
        steps, latents = steps_and_result(work)
        assert steps == [0, 1, 2]  # loaded, and two steps
        _, frames = steps_and_result(decoder.run(order(tiny, DECODE, lean), latents))
        made.append(frames)
    assert (made[0] == made[1]).all()


def test_a_checkpoint_takes_the_place_of_a_lost_result(tiny: Path, store: str) -> None:
    renderer = Worker(Kind.RENDERER, "cpu", open_store(store))
    _, conditioning = steps_and_result(renderer.run(order(tiny, ENCODE)))
    _, latents = steps_and_result(renderer.run(order(tiny, DENOISE), conditioning))
    rest = Task("latents/0005", Stage.DENOISE, ("latents/0002",), (2, 5))
    _, kept = steps_and_result(renderer.run(order(tiny, rest), latents))
    renderer._saver.shutdown()
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
    ("task", "lean", "words"),
    [
        (DECODE, False, r"decode of 5 frames of 64 x 48 in float32; about 2 frames would fit: try"),
        (DECODE, True, r"everything else moved off the GPU.*decode_chunk_size=2"),
        (DENOISE, False, r"denoise of 5 frames.*num_frames=2"),
        (ENCODE, False, r"smaller width and height"),
    ],
)
def test_what_fits_where_nothing_is_known(task: Task, lean: bool, words: str, tiny: Path) -> None:
    assert re.search(words, what_fits(order(tiny, task, lean), ""))


def test_what_fits_by_what_was_wanted(tiny: Path) -> None:
    task = Task("frames", Stage.DECODE, ("latents/0025",), (0, 25))
    text = what_fits(
        order(tiny, task, num_frames=25),
        "Tried to allocate 6.00 GiB.",
        total=24 * GIB,
        weights=4 * GIB,
        peak=22 * GIB,
    )
    assert "28.0 GiB wanted, 24.0 GiB there" in text
    assert "decode_chunk_size=18" in text  # 25 frames x 0.9 x 20 GiB / 24 GiB
