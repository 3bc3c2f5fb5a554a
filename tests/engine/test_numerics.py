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
        ({}, "58a8b97d326fd51f122f465f95d18df69595d7a452e51c575222cb7e43755b06"),
        ({"seed": 1}, "a85f4e41749e2901f865adf0b9f53925dacb5e5c4bae704c5a1a4e0b2870b180"),
        ({"fps": 8}, "96a7e3cf90b4952e8354916463bd3486e92863ba9d7ecab5b3017452b933d806"),
        ({"tier": "fast"}, "bb67a9f121e566e6dada429db8e23dea9f8f388581a3eb42398ebc1b8ac5c0e4"),
        (
            {"reuse_interval": 2, "max_guidance_scale": 3.0},
            "67e51dc7bd8d87a5cbd391b59aa5d7c26eec90611c8515df005d523b1d32e10f",
        ),
        (
            {"sigmas": [700, 5, 0]},
            "b2a513af932b2a2a4e01b6c14259584f01699c6c8da2d3e95f981643ebca1d53",
        ),
        (
            {"deviations": "legacy-v1"},
            "4b4870ef14c677fded9fe692f9dba3dd119ac4ceed47069c5fbabac965172024",
        ),
        (
            {"decode_chunk_size": 7, "fit": "crop"},
            "d659d1fdfd043270057ffaae48223beff971fba600bf0e1a88744e7d6549fb90",
        ),
        ({"dtype": "float16"}, "bbc06ea41af6716db10d855e3799be20f8159016ecd0061fe045c92c4b9ca6b2"),
        ({"num_videos": 2}, "69fcae9311f6bbb67272452f71f34ca532d1f89df5ae4e7b91441522799730a4"),
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
