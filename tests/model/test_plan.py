"""A request, its digest, and the tasks that it is planned into."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from farm.model.plan import Stage, Task, latents_key, plan
from farm.model.request import MAX_SEED, RenderRequest, digest_of
from svd_engine.params import RenderDefaults, RenderParams

DEFAULTS = RenderDefaults(width=64, height=48, num_frames=7)
A, B = digest_of(b"a"), digest_of(b"b")
SHAPES = {
    "frames": st.integers(1, 60),
    "chunk": st.none() | st.integers(1, 70),
    "steps": st.integers(1, 40),
    "segment": st.integers(1, 50),
}


def request(**changes: object) -> RenderRequest:
    params = RenderParams(**{k: v for k, v in changes.items() if k in RenderParams.model_fields})
    own = {k: v for k, v in changes.items() if k not in RenderParams.model_fields}
    return RenderRequest(
        **{"picture": A, "weights": B, "dtype": "float32", "params": params.resolve(DEFAULTS)} | own
    )


def spans(tasks: tuple[Task, ...], stage: Stage) -> list[tuple[int, int]]:
    return [task.span for task in tasks if task.stage == stage]


def covered(ranges: list[tuple[int, int]]) -> list[int]:
    return [number for start, stop in ranges for number in range(start, stop)]


def test_digest_is_of_what_decides_the_pixels() -> None:
    base = request().digest
    assert base == request(width=64, height=48, num_frames=7).digest  # the defaults, spelled out
    others = [
        request(seed=1),
        request(fps=8),
        request(decode_chunk_size=7),
        request(fit="crop"),
        request(picture=B),
        request(weights=A),
        request(dtype="float16"),
        request(numerics=7),
        request(num_videos=2),
    ]
    assert len({base, *(other.digest for other in others)}) == 10


def test_a_request_has_nothing_open() -> None:
    with pytest.raises(ValidationError, match="resolve"):
        RenderRequest(picture=A, weights=B, dtype="float32", params=RenderParams())
    with pytest.raises(ValidationError, match="picture"):
        request(picture="not a digest")
    with pytest.raises(ValidationError, match="2\\^64"):
        request(seed=MAX_SEED, num_videos=2)


def test_a_clip_for_each_seed() -> None:
    clips = request(seed=5, num_videos=3).clips()
    assert clips == tuple(request(seed=seed) for seed in (5, 6, 7))
    assert [clip.params.seed for clip in request(num_videos=2).clips()] == [0, 1]
    assert request(seed=MAX_SEED).clips() == (request(seed=MAX_SEED),)


def test_a_copy_shares_its_parameters_unless_it_is_to_be_deep() -> None:
    base = request(seed=5)
    assert base.model_copy().params is base.params
    deep = base.model_copy(deep=True)
    assert deep == base
    assert deep.params is not base.params


@given(**SHAPES)
def test_plan_does_each_step_and_frame_once_after_what_it_needs(
    frames: int, chunk: int | None, steps: int, segment: int
) -> None:
    asked = request(num_frames=frames, decode_chunk_size=chunk, num_inference_steps=steps)
    tasks = tuple(plan(asked, segment))
    done: set[str] = set()
    for task in tasks:
        assert set(task.needs) <= done
        done.add(task.key)
    assert len(done) == len(tasks)
    assert [task.stage for task in tasks if task.stage == Stage.ENCODE] == [Stage.ENCODE]
    segments, chunks = spans(tasks, Stage.DENOISE), spans(tasks, Stage.DECODE)
    assert covered(segments) == list(range(steps))
    assert all(stop - start <= segment for start, stop in segments)
    assert covered(chunks) == list(range(frames))
    assert all(stop - start <= (chunk or frames) for start, stop in chunks)
    assert tasks[-1].stage == Stage.MUX
    assert tasks[-1].needs == tuple(t.key for t in tasks if t.stage == Stage.DECODE)
    assert tuple(plan(asked, segment)) == tasks


def test_a_digest_names_the_tier_and_keeps_its_name_without_one() -> None:
    """A digest from before there were tiers: whoever asks for none has the same clip."""
    assert request().asked == "58a8b97d326fd51f122f465f95d18df69595d7a452e51c575222cb7e43755b06"
    names = [
        request(),
        request(tier="fast"),
        request(tier="fast", num_inference_steps=25),
        request(num_inference_steps=10),
        request(tier="reuse"),
        request(reuse_interval=3),
        request(tier="fast", reuse_interval=2),
    ]
    assert len({name.digest for name in names}) == len(names)
    assert request(tier="exact", reuse_interval=1).digest == request().digest
    assert request(tier="fast", num_inference_steps=10).digest == request(tier="fast").digest
    assert request(reuse_interval=2).digest == request(tier="reuse").digest


@given(st.integers(3, 40), st.integers(1, 50), st.data())
def test_segments_of_a_clip_that_reuses_features_begin_with_a_whole_step(
    steps: int, segment: int, data: st.DataObject
) -> None:
    interval = data.draw(st.integers(2, min(10, steps - 1)))
    asked = request(num_inference_steps=steps, reuse_interval=interval)
    saved = 0  # by other farms, whose segments were longer or shorter
    for length in data.draw(st.lists(st.integers(1, 50), max_size=3)):
        spans_ = spans(tuple(plan(asked, length, saved)), Stage.DENOISE)
        saved = spans_[0][1] if spans_ else saved
    segments = spans(tuple(plan(asked, segment, saved)), Stage.DENOISE)
    assert covered(segments) == list(range(saved, steps))
    assert all(start % interval == 0 for start, _ in segments)


@given(**SHAPES, data=st.data())
def test_resuming_leaves_the_rest_and_nothing_else(
    frames: int, chunk: int | None, steps: int, segment: int, data: st.DataObject
) -> None:
    asked = request(num_frames=frames, decode_chunk_size=chunk, num_inference_steps=steps)
    step = data.draw(st.integers(1, steps))
    whole, rest = tuple(plan(asked, segment)), tuple(plan(asked, segment, step))
    assert covered(spans(rest, Stage.DENOISE)) == list(range(step, steps))
    assert not spans(rest, Stage.ENCODE)
    made = {task.key for task in rest}
    assert {key for task in rest for key in task.needs} - made == {latents_key(step)}
    assert made <= {task.key for task in whole}
    if step % segment == 0 or step == steps:  # where a segment ends
        past = {key for key in (task.key for task in whole) if key not in made}
        assert rest == tuple(task for task in whole if task.key not in past)
        assert len(past) == 1 + -(-step // segment)


def test_a_plan_reads_like_this() -> None:
    tasks = plan(
        request(num_frames=5, decode_chunk_size=3, num_inference_steps=5), segment=2, step=1
    )
    assert [(task.key, task.needs, task.span) for task in tasks] == [
        ("latents/0002", ("latents/0001",), (1, 2)),
        ("latents/0004", ("latents/0002",), (2, 4)),
        ("latents/0005", ("latents/0004",), (4, 5)),
        ("frames/0000-0003", ("latents/0005",), (0, 3)),
        ("frames/0003-0005", ("latents/0005",), (3, 5)),
        ("video", ("frames/0000-0003", "frames/0003-0005"), (0, 0)),
    ]
