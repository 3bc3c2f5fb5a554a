"""What comes in, alone: a submission becomes a job, or is refused with the reason."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from farm.background import Background
from farm.coordinator.intake import KEY_S, REPEAT_S, Intake
from farm.errors import RequestError
from farm.model.job import Event, Submission
from farm.model.request import Model, ModelFacts, digest_of
from farm.settings import load_settings
from svd_engine.params import RenderParams
from tests.conftest import draw_picture
from tests.model.test_plan import DEFAULTS, B
from tests.picture_memory import encoded
from tests.support.core import Core, run
from tests.support.farm_jobs import picture_bytes

PICTURE = picture_bytes()
DIGEST = digest_of(PICTURE)
LARGE = encoded(draw_picture(400, 300), "PNG")


class OneModel:
    async def facts(self, model: Model, tenant: str = "") -> ModelFacts:
        if model.name != "nano":
            raise RequestError(f"there is no model {model.name!r}")
        return ModelFacts(digest=B, defaults=DEFAULTS)


def with_intake(folder: Path, test: Callable[[Core, Intake], Awaitable[None]]) -> None:
    async def all_of_it(core: Core) -> None:
        settings = load_settings(max_pixels=100_000)
        background = Background(4, core.failures.append)
        intake = Intake(settings, core.store, background, OneModel(), core.book, core.clock)
        try:
            await test(core, intake)
        finally:
            await background.cancel_all()

    run(folder, all_of_it)


def test_a_job_has_what_was_asked_and_when(tmp_path: Path) -> None:
    async def test(core: Core, intake: Intake) -> None:
        asked = Submission(tenant="acme", num_videos=3, priority=70, params=RenderParams(seed=5))
        job = await intake.job_of(asked, DIGEST)
        assert (job.id, job.tenant, job.priority) == (asked.id, "acme", 70)
        assert (job.created_at, job.created_on) == (core.clock.time, core.clock.time)
        assert (job.request.picture, job.request.weights) == (DIGEST, B)
        assert [clip.params.seed for clip in job.request.clips()] == [5, 6, 7]
        assert job.request.params.width == DEFAULTS.width

    with_intake(tmp_path, test)


@pytest.mark.parametrize(
    ("changes", "picture", "words"),
    [
        ({}, b"", "empty"),
        ({}, b"nonsense", "not a picture"),
        ({}, LARGE, "400 x 300 pixels, over 100000"),
        ({"model": Model(name="none")}, PICTURE, "no model 'none'"),
        ({"num_videos": 2, "params": RenderParams(seed=2**64 - 1)}, PICTURE, "2\\^64"),
        ({"webhook_url": "https://a.b/c"}, PICTURE, "FARM_WEBHOOK_SECRET"),
        (
            {"params": RenderParams(width=8192, height=8192, num_frames=9)},
            PICTURE,
            "8192 x 8192 x 9 pixels",
        ),
    ],
)
def test_what_can_never_be_rendered_is_refused(
    changes: dict[str, Any], picture: bytes, words: str, tmp_path: Path
) -> None:
    async def test(_: Core, intake: Intake) -> None:
        async def ask() -> None:
            digest = await intake.digest_of_picture(picture)
            await intake.job_of(Submission(**changes), digest)

        with pytest.raises(RequestError, match=words):
            await ask()

    with_intake(tmp_path, test)


@pytest.mark.parametrize(("key", "lasts_s"), [("a key", KEY_S), ("", REPEAT_S)])
def test_what_is_sent_twice_is_one_job_for_a_while(
    key: str, lasts_s: float, tmp_path: Path
) -> None:
    async def test(core: Core, intake: Intake) -> None:
        first = await intake.once(await intake.job_of(Submission(), DIGEST), key)
        core.clock.time += lasts_s - 1
        again = await intake.once(await intake.job_of(Submission(), DIGEST), key)
        assert again.id == first.id
        other = await intake.job_of(Submission(tenant="other"), DIGEST)
        assert (await intake.once(other, key)).id == other.id
        core.clock.time += 2
        later = await intake.job_of(Submission(), DIGEST)
        assert (await intake.once(later, key)).id == later.id

    with_intake(tmp_path, test)


@pytest.mark.parametrize("key", ["a key", ""])
def test_a_failed_request_may_be_sent_again_without_a_key(key: str, tmp_path: Path) -> None:
    async def test(core: Core, intake: Intake) -> None:
        first = await intake.once(await intake.job_of(Submission(), DIGEST), key)
        await core.book.create(first)
        await core.book.transition(first.id, Event.FAIL, error="it broke")
        again = await intake.job_of(Submission(), DIGEST)
        expected = first.id if key else again.id
        assert (await intake.once(again, key)).id == expected

    with_intake(tmp_path, test)


def test_of_two_at_once_one_is_the_job(tmp_path: Path) -> None:
    async def test(_: Core, intake: Intake) -> None:
        jobs = [await intake.job_of(Submission(), DIGEST) for _ in range(8)]
        named = await asyncio.gather(*(intake.once(job, "a key") for job in jobs))
        assert len({job.id for job in named}) == 1

    with_intake(tmp_path, test)
