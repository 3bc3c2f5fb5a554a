"""One job through a real server and through its cluster: same id, same clip, same messages."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import farm
from farm.errors import JobCancelledError, JobError, JobFailedError, RequestError
from tests.support.farm_jobs import SMALL, picture_bytes, wait_for
from tests.support.ingress_server import serving

PICTURE = picture_bytes()


@pytest.fixture(scope="module")
def server(
    tiny: Path, tmp_path_factory: pytest.TempPathFactory, ray_cluster: None
) -> Iterator[farm.Connection]:
    with (
        serving(tmp_path_factory.mktemp("store"), models=[str(tiny)]) as url,
        farm.connect(url) as connection,
    ):
        yield connection


@pytest.fixture
def cluster(server: farm.Connection) -> farm.Connection:
    return farm.connect()


def test_a_job_is_the_same_one(server: farm.Connection, cluster: farm.Connection) -> None:
    far = server.submit(PICTURE, num_videos=2, sigmas=(20, 5.0, 0), **SMALL)
    near = cluster.job(far.id)
    assert far.wait(timeout=240, progress=False).progress == near.wait(timeout=5).progress
    assert (far.status, near.status) == ("completed", "completed")
    for video in (0, 1):
        assert np.array_equal(far.frames(video), near.frames(video))
        assert far.thumbnail(video) == near.thumbnail(video)
    assert far._repr_html_() == near._repr_html_()
    assert list(far.events()) == list(near.events())
    assert list(far.events(after=2)) == list(near.events())[2:]


def test_it_is_cancelled_there_and_here(server: farm.Connection, cluster: farm.Connection) -> None:
    far = server.submit(PICTURE, **(SMALL | {"num_inference_steps": 1000}))
    wait_for(lambda: far.status == "running")
    cluster.job(far.id).cancel()
    with pytest.raises(JobCancelledError, match=f"{far.id} was cancelled"):
        far.wait(timeout=5)


def test_it_fails_there_and_here(server: farm.Connection, cluster: farm.Connection) -> None:
    far = server.submit(PICTURE[: len(PICTURE) // 2], **SMALL)
    messages = []
    for job in (far, cluster.job(far.id)):
        with pytest.raises(JobFailedError, match="broken") as caught:
            job.wait(timeout=60)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_what_is_refused(server: farm.Connection) -> None:
    with pytest.raises(RequestError, match="not a picture"):
        server.submit(b"rubbish")
    with pytest.raises(RequestError, match="no-such-model"):
        server.submit(PICTURE, model="no-such-model")
    with pytest.raises(JobError, match="there is no video 'job-0'"):
        server.job("job-0")


def test_many(server: farm.Connection, cluster: farm.Connection, tiny: Path) -> None:
    pictures = [picture_bytes(seed) for seed in range(3)]
    jobs = server.submit_many(pictures, **SMALL)
    jobs += cluster.submit_many(pictures, model=tiny, seed=1, **SMALL)
    assert {job.id for job in farm.as_completed(jobs, timeout=240)} == {job.id for job in jobs}
    assert {job.status for job in jobs} == {"completed"}
