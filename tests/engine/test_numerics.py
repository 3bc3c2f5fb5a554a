"""Results are named by the numerics that made them, whichever version started the job."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.background import Background
from farm.errors import WorkerError
from farm.model.job import JobRecord, State
from farm.model.plan import Kind, plan
from farm.model.request import UNCOUNTED, Model, RenderRequest
from farm.model.task_order import Order
from farm.records.job_book import JobBook
from farm.store import Store, open_store
from farm.store.keys import job_key, open_key
from farm.workers.pool import _check_numerics
from farm.workers.worker import Worker
from svd_engine import NUMERICS, RenderParams
from svd_engine.params import RenderDefaults
from tests.model.test_job import job
from tests.model.test_plan import request

DEFAULTS = RenderDefaults(width=64, height=48, num_frames=7)


def with_book(store: Store, work: Callable[[JobBook], Awaitable[None]], fence: int = 1) -> None:
    async def ended(_: JobRecord) -> None: ...

    async def run() -> None:
        nothing: Callable[..., None] = lambda *_: None  # noqa: E731
        await work(JobBook(store, Background(4), fence, nothing, ended, nothing))

    asyncio.run(run())


def test_other_numerics_have_other_names_and_ask_the_same() -> None:
    mine, other = request(), request(numerics=NUMERICS + 1)
    assert mine.numerics == NUMERICS
    assert mine.digest != other.digest
    assert mine.asked == other.asked


@given(seed=st.integers(0, 100), videos=st.integers(2, 4))
def test_what_was_computed_of_a_request_is_not_its_copys(seed: int, videos: int) -> None:
    whole = request(seed=seed, num_videos=videos)
    names = {whole.digest, *(clip.digest for clip in whole.clips())}
    assert len(names) == 1 + videos
    assert len({whole.asked, *(clip.asked for clip in whole.clips())}) == 1 + videos
    assert whole.model_copy(update={"numerics": 9}).digest != whole.digest


def test_a_new_parameter_with_its_default_renames_nothing() -> None:
    class Later(RenderParams):
        brightness: float = 1.0

    def asked(params: RenderParams) -> RenderRequest:
        own = request().model_copy(update={"params": params.resolve(DEFAULTS)})
        return own.model_copy()

    assert asked(Later(seed=3)).digest == asked(RenderParams(seed=3)).digest
    assert asked(Later(seed=3, brightness=2.0)).digest != asked(RenderParams(seed=3)).digest


@pytest.mark.parametrize(
    ("changes", "digest"),
    [
        ({}, "e1a7322c09c7d979bf9ec2413f0f0dd4e0c1c524c5e56d0ef7daac6dfe0c7e88"),
        ({"seed": 1}, "4c1945dc597a4f3ad7d5d55e0647c2c0af95fe48a9806637f090d5306a28e583"),
        ({"fps": 8}, "1b1c5a6e7949ff07b687a598d9240ff36f0c58424cd283557a0f2f843270413b"),
        ({"tier": "fast"}, "4173b19ef24ab87972a7a8666a3b800d40a68b081c51dd07f9c4012670c82dd0"),
        (
            {"reuse_interval": 2, "max_guidance_scale": 3.0},
            "bcda8e958426ac485e584199c6f2093e5a7a0541c24e2555fd0e43c80be34484",
        ),
        (
            {"sigmas": [700, 5, 0]},
            "64616ef628e0beb9942048ad5af41a15c01ccb1cbb8974a0675a27ba6162860b",
        ),
        (
            {"deviations": "legacy-v1"},
            "c4ab50145e514ce00677b7a50c4045c490708b0b5d32ebb609dc47c567f2d781",
        ),
        (
            {"decode_chunk_size": 7, "fit": "crop"},
            "edebf954554dc0517d0366e52bc72ca9a3e18f80c9995dfc686dc604ea94916b",
        ),
        ({"dtype": "float16"}, "6252a0fcb01b6af1ed3241418b7c4475fe4214e2c2964d5dd4637439cf73e85a"),
        ({"num_videos": 2}, "4183e2ffe522850673c41e624887e395a8c1268ad58bc330109fbe65e60cbf8b"),
    ],
)
def test_a_digest_is_what_it_always_was(changes: dict[str, Any], digest: str) -> None:
    """Another digest is another clip: every stored clip would be rendered again."""
    assert request(**changes).asked == digest


def test_a_default_changes_only_with_the_numerics() -> None:
    """A digest leaves out every parameter that has its default.

    A new parameter is added to this table. Whoever changes a default that is in it raises NUMERICS,
    so that clips made with the former default are not taken for clips made with the new one.
    """
    assert NUMERICS == 4
    defaults = {
        "decode_chunk_size": None,
        "deviations": (),
        "fit": "stretch",
        "fps": 7,
        "height": None,
        "max_guidance_scale": None,
        "min_guidance_scale": 1.0,
        "motion_bucket_id": None,
        "noise_aug_strength": 0.02,
        "num_frames": None,
        "num_inference_steps": 25,
        "reuse_interval": 1,
        "seed": 0,
        "sigmas": None,
        "tier": "exact",
        "width": None,
    }
    assert RenderParams().model_dump() == defaults


@pytest.mark.parametrize("spelt", [{"engine": "0.2.0"}, {"numerics": NUMERICS + 1}])
def test_a_job_of_another_version_is_finished_under_this_ones_numerics(
    tmp_path: Path, spelt: dict[str, Any]
) -> None:
    store, name = open_store(str(tmp_path)), job().id
    record = json.loads(job().model_dump_json())
    del record["request"]["numerics"]
    record["request"] |= spelt
    store.put(job_key(name), json.dumps(record).encode())
    store.put(open_key(name), b"")
    assert JobRecord(**record).request.numerics == spelt.get("numerics", UNCOUNTED)

    async def work(book: JobBook) -> None:
        (found,) = await book.recover()
        assert found.request == request()
        again, new = await book.create(job())  # sent again, its answer was lost
        assert (again.id, new) == (name, False)
        await book.save_recovered()

    with_book(store, work)
    stored = store.get(job_key(name))
    assert stored is not None
    assert JobRecord.model_validate_json(stored.data).request.digest == request().digest


def test_a_finished_job_of_another_version_is_the_same_job(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    theirs = job(state=State.COMPLETED, request=request(numerics=NUMERICS + 1))
    store.put(job_key(theirs.id), theirs.model_dump_json().encode())

    async def work(book: JobBook) -> None:
        assert await book.create(job()) == (theirs, False)

    with_book(store, work)


@pytest.mark.parametrize("wanted", [NUMERICS + 1, UNCOUNTED])
def test_a_worker_renders_nothing_under_another_name(tmp_path: Path, wanted: int) -> None:
    asked = request(numerics=wanted)
    order = Order(asked, Model(), next(iter(plan(asked, 5))), "1-1")
    with pytest.raises(WorkerError, match=f"numerics {NUMERICS}, the clip is to be of {wanted}"):
        next(Worker(Kind.RENDERER, "cpu", open_store(str(tmp_path))).run(order))


def test_a_worker_is_used_where_its_numerics_are_the_farms() -> None:
    class Remote:
        def __init__(self, numerics: int) -> None:
            self._numerics = numerics

        async def remote(self) -> int:
            return self._numerics

    class Actor:
        def __init__(self, numerics: int) -> None:
            self.numerics = Remote(numerics)

    asyncio.run(_check_numerics(Actor(NUMERICS)))
    with pytest.raises(WorkerError, match="run one version on all nodes"):
        asyncio.run(_check_numerics(Actor(NUMERICS + 1)))
