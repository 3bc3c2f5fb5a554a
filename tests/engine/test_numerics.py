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
from farm.model.job import Job
from farm.model.plan import Kind, plan
from farm.model.request import UNCOUNTED, Model, RenderRequest
from farm.model.task_order import Order
from farm.records.job_book import Book
from farm.store import Store, open_store
from farm.store.keys import job_key, open_key
from farm.workers.pool import _check_numerics
from farm.workers.worker import Worker
from svd_engine import NUMERICS, RenderParams
from svd_engine.params import RenderDefaults
from tests.model.test_job import job
from tests.model.test_plan import request

DEFAULTS = RenderDefaults(width=64, height=48, num_frames=7)


def with_book(store: Store, work: Callable[[Book], Awaitable[None]], fence: int = 1) -> None:
    async def ended(_: Job) -> None: ...

    async def run() -> None:
        nothing: Callable[..., None] = lambda *_: None  # noqa: E731
        await work(Book(store, Background(4), fence, nothing, ended, nothing))

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
    assert whole.model_copy(update={"numerics": 9}).digest != whole.digest


def test_a_new_parameter_with_its_default_renames_nothing() -> None:
    class Later(RenderParams):
        brightness: float = 1.0

    def asked(params: RenderParams) -> RenderRequest:
        own = request().model_copy(update={"params": params.resolve(DEFAULTS)})
        return own.model_copy()

    assert asked(Later(seed=3)).digest == asked(RenderParams(seed=3)).digest
    assert asked(Later(seed=3, brightness=2.0)).digest != asked(RenderParams(seed=3)).digest


def test_what_is_meant_by_default_changes_with_the_numerics_alone() -> None:
    """A digest does not say what has its default: to change one of these, raise NUMERICS."""
    given = {
        "decode_chunk_size": None,
        "deviations": (),
        "fit": "stretch",
        "fps": 7,
        "height": None,
        "max_guidance_scale": None,
        "min_guidance_scale": 1.0,
        "motion_bucket_id": 127,
        "noise_aug_strength": 0.02,
        "num_frames": None,
        "num_inference_steps": 25,
        "reuse_interval": 1,
        "seed": 0,
        "sigmas": None,
        "tier": "exact",
        "width": None,
    }
    assert given.items() <= RenderParams().model_dump().items()


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
    assert Job(**record).request.numerics == spelt.get("numerics", UNCOUNTED)

    async def work(book: Book) -> None:
        (found,) = await book.recover()
        assert found.request == request()
        again, new = await book.create(job())  # sent again, its answer was lost
        assert (again.id, new) == (name, False)
        await book.save_recovered()

    with_book(store, work)
    stored = store.get(job_key(name))
    assert stored is not None
    assert Job.model_validate_json(stored.data).request.digest == request().digest


def test_a_finished_job_of_another_version_is_the_same_job(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    theirs = job(state="completed", request=request(numerics=NUMERICS + 1))
    store.put(job_key(theirs.id), theirs.model_dump_json().encode())

    async def work(book: Book) -> None:
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
