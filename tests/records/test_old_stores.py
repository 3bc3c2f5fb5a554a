"""Stores of earlier versions (made by `tests.old_stores`) are read, and their jobs continue."""

import asyncio
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

from farm.model.job import ClipResult, JobRecord, State
from farm.store import open_store
from farm.store.keys import QUARANTINE, picture_key, result_key
from svd_engine import NUMERICS
from tests.old_stores import STORES, VERSIONS
from tests.support.farm_jobs import expected_sha256, finish, open_farm, picture_bytes
from tests.support.inline_farm import coordinator, inline
from tests.support.ray_cluster import end_farm

__all__ = ["inline"]
ARCHIVES = sorted(STORES.glob("*.tar.gz"))
SEEDS = {State.COMPLETED: 7, State.CANCELLED: 8, State.QUEUED: 9}  # as they were left


@pytest.fixture(params=ARCHIVES, ids=lambda path: path.name.split(".")[0])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    with tarfile.open(request.param) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "store"


def test_every_version_left_one() -> None:
    assert [path.name.split(".")[0].partition("-")[2] for path in ARCHIVES] == list(VERSIONS)


def test_records_of_clips_have_the_names_that_they_always_had(folder: Path) -> None:
    """A clip whose record had another name would be set aside as damaged."""
    for path in folder.rglob("clip.json"):
        result = ClipResult.model_validate_json(path.read_text(), extra="allow")
        assert result.own_key in (None, path.relative_to(folder).as_posix())


def by_seed(jobs: list[JobRecord]) -> dict[int, JobRecord]:
    return {job.request.params.seed: job for job in jobs}


def test_a_store_of_an_earlier_version(folder: Path, inline: Any) -> None:
    shutil.rmtree(folder / "checkpoints")  # the inline farm's networks have other latents

    async def work() -> None:
        async with coordinator(folder) as farm:
            jobs = by_seed([view.job for view in await farm.views("default", "", 100, False)])
            assert sorted(jobs) == sorted(SEEDS.values())
            done, cancelled, left = (jobs[seed] for seed in SEEDS.values())
            assert (done.state, cancelled.state) == (State.COMPLETED, State.CANCELLED)
            assert left.state.is_open
            store = open_store(str(folder))
            for result in done.results:
                assert all(map(store.exists, (result.video, result.thumbnail)))
            assert (await farm.events(done.id))[-1].event in ("complete", "completed")
            version = 0
            while (ended := (await farm.show(left.id)).job).state.is_open:
                version, _ = await farm.watch([left.id], version)
            assert ended.state is State.COMPLETED, ended.error
            (clip,) = ended.results
            assert clip.request.numerics == NUMERICS  # by what finished it, not by what began it
            assert store.exists(result_key(clip.request.digest))
            assert (await farm.status())["quarantined"] == 0
            await farm.delete(done.id)
            await farm.delete(left.id)
            assert store.exists(picture_key(cancelled.request.picture))

    asyncio.run(work())
    assert not list(open_store(str(folder)).list(QUARANTINE))


@pytest.mark.slow
def test_what_it_left_is_rendered_to_its_end(folder: Path, ray_cluster: None) -> None:
    """On Ray, from whatever checkpoints it left."""
    farm = open_farm(folder)
    left = by_seed(farm.jobs(limit=100))[SEEDS[State.QUEUED]]
    (view,) = finish(farm, left.id).values()
    assert view.job.state is State.COMPLETED
    (made,) = view.job.results
    assert [made.sha256] == expected_sha256(Path("tiny"), picture_bytes(), view)
    end_farm()  # the next store's farm begins on the same cluster
