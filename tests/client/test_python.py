"""`farm.submit` on real Ray: jobs in a running cluster, and in a farm of this process's own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

import farm
from farm.client.farm import Farm
from farm.client.remote import ClusterRemote
from farm.errors import (
    JobCancelledError,
    JobError,
    JobFailedError,
    QueueFullError,
    RequestError,
    StoreError,
)
from farm.model.farm_api import FarmApi
from farm.model.parameters import submission_of
from svd_engine import Engine
from tests.conftest import ALL_CORES, draw_picture
from tests.support.farm_jobs import SMALL, open_farm, picture_bytes, wait_for

PICTURE = picture_bytes()
LONG = {"num_inference_steps": 1000, "num_frames": 8}
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def cluster(store: Path, ray_cluster: None) -> Iterator[None]:
    """A cluster with a farm, which `submit` is to find."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("FARM_URL", "FARM_API_KEY", "FARM_STORE"):
            patch.delenv(name, raising=False)
        open_farm(store)
        yield


@pytest.fixture
def asked(cluster: None, tiny: Path) -> dict[str, Any]:
    return {"model": tiny, **SMALL}


def test_pictures_in_every_form_are_one_clip(
    asked: dict[str, Any], tiny: Path, tmp_path: Path
) -> None:
    image = draw_picture(90, 60)
    (tmp_path / "a.png").write_bytes(PICTURE)
    forms = [tmp_path / "a.png", str(tmp_path / "a.png"), PICTURE, image, np.asarray(image)]
    jobs = [farm.submit(form, seed=3, **asked) for form in forms]
    videos = {job.wait(progress=False).save(tmp_path / "clip.mp4").read_bytes() for job in jobs}
    assert len(videos) == 1
    job = jobs[-1]
    assert job.status == "completed"
    assert job.progress.fraction == 1.0
    assert (job.progress.step, job.progress.steps) == (5, 5)
    frames = job.frames()
    assert (frames.shape, frames.dtype) == ((5, 48, 64, 3), np.uint8)
    params = submission_of({**SMALL, "seed": 3}).params
    rendered = Engine.from_pretrained(tiny).render(image, params).frames
    assert np.abs(frames.astype(int) - rendered).mean() < 12  # of noise, through a lossy codec
    assert job.thumbnail()[:2] == b"\xff\xd8"
    assert job.save(tmp_path / "clip.gif").read_bytes()[:3] == b"GIF"
    with pytest.raises(ValueError, match=r"'\.avi'"):
        job.save(tmp_path / "clip.avi")
    assert farm.connect().job(job.id).status == "completed"


def test_clips_of_several_seeds(asked: dict[str, Any], tmp_path: Path) -> None:
    job = farm.submit(PICTURE, num_videos=5, tenant="acme", priority=70, **asked)
    events = list(job.events())
    assert [event.event for event in events][:2] == ["submitted", "start"]
    assert events[-1].event == "complete"
    assert list(job.events(after=events[-2].seq)) == events[-1:]
    assert job.status == "completed"
    files = [job.save(tmp_path / f"{n}.mp4", video=n).read_bytes() for n in range(5)]
    assert len(set(files)) == 5
    shown = job._repr_html_()
    assert shown.count("<video") == 4
    assert "and 1 more" in shown
    with pytest.raises(RequestError, match="has 5, counted from 0; got -1"):
        job.frames(video=-1)
    job.cancel()  # too late
    assert job.status == "completed"


def test_a_job_under_way_is_cancelled(asked: dict[str, Any], tmp_path: Path) -> None:
    job = farm.submit(PICTURE, **{**asked, **LONG}, seed=50)
    seen = wait_for(lambda: (p := job.progress).step > 1 and p)
    assert job.status == "running"
    assert seen.stage == "denoise"
    assert 0 < seen.fraction < 0.9
    assert "<video" not in job._repr_html_()
    assert job.id in job._repr_html_()
    with pytest.raises(JobError, match="running: wait"):
        job.save(tmp_path / "clip.mp4")
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=f"{job.id} is not finished after 0.2 s"):
        job.wait(timeout=0.2, progress=False)
    assert time.monotonic() - began < 1.5
    job.cancel()
    assert job.status == "cancelled"
    with pytest.raises(JobCancelledError, match=f"{job.id} was cancelled"):
        job.wait()
    assert "cancelled" in job._repr_html_()


def test_a_failed_job_says_why(asked: dict[str, Any], tmp_path: Path) -> None:
    half = PICTURE[: len(PICTURE) // 2]  # its head is whole, so it is taken on
    job = farm.submit(half, **asked)
    with pytest.raises(JobFailedError, match=f"{job.id} failed: .*broken"):
        job.wait(progress=False)
    assert job.status == "failed"
    assert job.error is not None
    assert "broken" in job._repr_html_()
    with pytest.raises(JobFailedError, match="broken"):
        job.frames()


def test_what_is_refused(asked: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="Did you mean 'motion_bucket_id'"):
        farm.submit(PICTURE, motion_bucket=3)
    with pytest.raises(RequestError, match="not a picture"):
        farm.submit(b"rubbish", **asked)
    with pytest.raises(RequestError, match="no-such-model"):
        farm.submit(PICTURE, model="no-such-model")
    with pytest.raises(JobError, match="There is no job 'job-0'"):
        farm.connect().job("job-0")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FARM_STORE", str(tmp_path))
        with pytest.raises(StoreError, match="keeps its store at"):
            farm.submit(PICTURE, **asked)


def test_many_as_they_are_completed(
    asked: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = [draw_picture(30, 20, seed=seed) for seed in range(3)]
    jobs = farm.submit_many(pictures, **asked)
    assert jobs[0]._remote is jobs[1]._remote is farm.submit(PICTURE, **asked)._remote
    jobs.append(farm.submit(PICTURE[:400], **asked))
    jobs.append(farm.connect().submit(PICTURE, seed=9, **asked))
    done = list(farm.as_completed(jobs, timeout=240))
    assert sorted(job.id for job in done) == sorted(job.id for job in jobs)
    assert [job.status for job in jobs] == [*["completed"] * 3, "failed", "completed"]
    assert capsys.readouterr().err == ""
    job = farm.submit(PICTURE, seed=77, **asked).wait(progress=True)
    printed = capsys.readouterr().err
    assert job.id in printed
    assert "100%" in printed
    assert "completed" in printed


def test_a_relative_model_is_absolute_for_the_workers(
    asked: dict[str, Any], tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny.parent)
    job = farm.submit(PICTURE, **{**asked, "model": tiny.name})
    assert job.wait(timeout=60).status == "completed"


def test_a_full_farm_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        asked = 0

        def submit(self, *_: Any) -> Any:
            self.asked += 1
            raise QueueFullError("the farm has 9 open jobs", 0.2 if self.asked < 3 else 1e6)

    full: Any = Full()
    with pytest.raises(QueueFullError, match="9 open jobs"):
        ClusterRemote(full).submit(PICTURE, {})
    assert full.asked == 3


def test_a_job_that_is_deleted_is_not_waited_for() -> None:
    class NoJobs:
        async def watch(self, jobs: list[str], after: int, timeout_s: float) -> Any:
            return 1, []  # it has no news of a job that is not there

        async def show(self, job: str) -> Any:
            raise JobError(f"There is no job {job!r}")

    farm = Farm(cast("FarmApi", NoJobs()))
    assert list(farm.watch(["job-1"])) == [[]]
    with pytest.raises(JobError, match="There is no job 'job-1'"):
        list(ClusterRemote(farm).watch(["job-1"], None))


PROGRAM = """
import hashlib, os, sys, farm
cores, picture, model, clip = sys.argv[1:]
if cores:
    os.sched_setaffinity(0, map(int, cores.split(",")))
params = dict(width=64, height=48, num_frames=3, num_inference_steps=2)
job = farm.submit(picture, model=model, **params)
print(job.wait().save(clip), job.frames().shape)
other = farm.submit(picture, model=model, **params)
assert other.wait(progress=False).id != job.id

from svd_engine import Engine, RenderParams
frames = Engine.from_pretrained(model).render(picture, RenderParams(**params)).frames
print(hashlib.sha256(frames).hexdigest())
"""


@pytest.mark.ray
def test_without_a_cluster_it_starts_its_own(tiny: Path, tmp_path: Path) -> None:
    """On all cores, unlike other tests: frames depend on the number of threads."""
    (tmp_path / "a.png").write_bytes(PICTURE)
    unwanted = {"FARM_URL", "FARM_API_KEY"}
    environment = {name: value for name, value in os.environ.items() if name not in unwanted}
    environment |= {"RAY_ADDRESS": "local"}  # others may run on this machine, as this module's
    environment |= {"FARM_STORE": str(tmp_path / "store")}
    environment |= {"RAY_USAGE_STATS_ENABLED": "0", "HF_HUB_OFFLINE": "1"}
    cores = ",".join(map(str, ALL_CORES))
    files = [cores, tmp_path / "a.png", tiny, tmp_path / "clip.mp4"]
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", PROGRAM, *map(str, files)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    saved, frames = done.stdout.splitlines()
    assert saved == f"{tmp_path / 'clip.mp4'} (3, 48, 64, 3)"
    assert (tmp_path / "clip.mp4").read_bytes()[4:8] == b"ftyp"
    records = [json.loads(file.read_text()) for file in (tmp_path / "store/jobs").iterdir()]
    assert {record["results"][0]["sha256"] for record in records} == {frames}
