"""The estimate of a job's end, given once all of its remaining stages were timed."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from farm.model.job import State, Submission
from farm.model.plan import Stage, Task
from farm.model.request import Model, ModelFacts, digest_of
from farm.scheduling.estimate import Pace
from svd_engine.params import RenderParams
from tests.model.test_plan import A, B, request
from tests.support import inline_farm
from tests.support.farm_jobs import picture_bytes
from tests.support.inline_farm import DEFAULTS, coordinator, hang_after, inline

__all__ = ["inline"]
SPANS = {Stage.ENCODE: (0, 0), Stage.DENOISE: (0, 5), Stage.DECODE: (0, 7), Stage.MUX: (0, 0)}


def timed(*stages: Stage, weights: str = B, pace: Pace | None = None) -> Pace:
    pace = pace or Pace()
    for stage in stages:
        pace.observe(Task(key=stage, stage=stage, span=SPANS[stage]), request(weights=weights), 1.0)
    return pace


def test_what_is_done_need_not_have_been_timed() -> None:
    """A clip that goes on from its checkpoint, after a restart, is not encoded again."""
    clip = request(num_inference_steps=10)
    pace = timed(Stage.DENOISE, Stage.DECODE, Stage.MUX)
    assert pace.left(clip) is None
    assert pace.left(clip, step=5) == pytest.approx(3.0)
    assert timed(Stage.DECODE, Stage.MUX).left(clip, step=10) == pytest.approx(2.0)
    assert timed(Stage.MUX).left(clip, step=10, frames=7) == pytest.approx(1.0)


def test_a_video_is_written_at_one_pace_whichever_model_made_it() -> None:
    clip = request(num_inference_steps=5)
    pace = timed(Stage.ENCODE, Stage.DENOISE, Stage.DECODE)
    assert pace.left(clip) is None
    timed(*Stage, weights=A, pace=pace)
    assert pace.left(clip) == pytest.approx(4.0)


def test_steps_that_reuse_features_have_a_pace_of_their_own() -> None:
    pace = timed(*Stage)
    assert pace.left(request(reuse_interval=2)) is None
    task = Task(key="a", stage=Stage.DENOISE, span=(0, 5))
    pace.observe(task, request(reuse_interval=2), 0.5)
    steps = {"num_inference_steps": 5}
    assert pace.left(request(**steps, reuse_interval=2)) == pytest.approx(3.5)
    assert pace.left(request(**steps)) == pytest.approx(4.0)


class TwoModels(inline_farm.KnownModel):
    async def facts(self, model: Model, tenant: str = "") -> ModelFacts:
        return ModelFacts(digest=digest_of(model.name.encode()), defaults=DEFAULTS)


def test_a_job_behind_one_of_an_unknown_model_has_an_eta(inline: Any, tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path, finder=TwoModels) as farm:

            async def submit(model: str, seed: int) -> str:
                params = RenderParams(num_inference_steps=4, seed=seed)
                submission = Submission(model=Model(name=model), params=params)
                return (await farm.submit(submission, picture_bytes())).job.id

            first = await submit("known", 0)
            while (await farm.show(first)).job.state is not State.COMPLETED:
                await asyncio.sleep(0.01)
            await hang_after(farm, 0)
            await submit("unknown", 1)
            behind = [await submit("unknown", 2), await submit("known", 3)]
            progress = [(await farm.show(job)).progress for job in behind]
            assert [each.queue_position is not None for each in progress] == [True, True]
            assert progress[0].eta_s is None  # nothing of it was ever timed
            assert progress[1].eta_s is not None

    asyncio.run(asyncio.wait_for(test(), 60))
