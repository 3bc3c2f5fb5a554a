"""Jobs on real Ray: stored, shared, controlled, cancelled, and recovered after crashes."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from farm.__main__ import main
from farm.client.farm import Farm, fetch
from farm.errors import JobError, QueueFullError, RequestError, StoreError, WorkerError
from farm.model.job import JobView, State
from farm.store.keys import CHECKPOINTS, OPEN, result_key
from tests.support.farm_jobs import (
    expected_sha256,
    finish,
    kill,
    open_farm,
    picture_bytes,
    submission,
    wait_for,
)

PICTURE = picture_bytes()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def farm(store: Path, ray_cluster: None) -> Farm:
    return open_farm(store, max_jobs=60)


def under_way(farm: Farm, job: str, step: int = 1) -> JobView:
    return wait_for(lambda: (v := farm.show(job)).progress.step >= step and v)


def hashes(view: JobView) -> list[str]:
    return [result.sha256 for result in view.job.results]


def test_a_job_of_two_clips(farm: Farm, tiny: Path, store: Path) -> None:
    job = farm.submit(submission(tiny, num_videos=2), PICTURE).job
    assert (store / "jobs" / f"{job.id}.json").exists()  # acknowledged, so it is there
    view = finish(farm, job.id)[job.id]
    assert view.job.state is State.COMPLETED, view.job.error
    assert hashes(view) == expected_sha256(tiny, PICTURE, view)
    assert [r.request.params.seed for r in view.job.results] == [0, 1]
    assert view.job.gpu_seconds > 0
    assert set(view.job.seconds) == {"encode", "denoise", "decode", "mux"}
    assert view.progress.step == view.progress.steps == 10
    assert view.progress.chunk == view.progress.chunks == 6
    for result in view.job.results:
        video, thumbnail = fetch(farm.store(), result)
        assert video[4:8] == b"ftyp"
        assert thumbnail[:2] == b"\xff\xd8"
        assert (store / result.sprite_sheet).read_bytes()[:2] == b"\xff\xd8"
    assert not list(farm.store().list(OPEN))
    wait_for(lambda: not list(farm.store().list(CHECKPOINTS)))
    assert job.id in [j.id for j in farm.jobs()]


def test_the_event_log_is_read_from_any_entry_on(farm: Farm, tiny: Path) -> None:
    job = farm.submit(submission(tiny, seed=10), PICTURE).job.id
    finish(farm, job)
    entries = farm.events(job)
    assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
    assert [entry.event for entry in entries][:2] == ["submitted", "start"]
    assert entries[-1].event == "complete"
    assert {"stage", "step", "seed"} <= set(entries[-2].data)
    assert farm.events(job, after=2) == entries[2:]
    assert farm.events(job, after=len(entries)) == []


def test_the_same_work_is_done_once(farm: Farm, tiny: Path, store: Path) -> None:
    asked = [submission(tiny, seed=20) for _ in range(16)]
    with ThreadPoolExecutor(16) as threads:
        jobs = [v.job.id for v in threads.map(lambda s: farm.submit(s, PICTURE), asked)]
    views = finish(farm, *jobs)
    assert len(set(jobs)) == 16
    assert len({hashes(view)[0] for view in views.values()}) == 1
    digest = views[jobs[0]].job.request.digest
    attempts = [p for p in (store / "clips" / digest).iterdir() if p.is_dir()]
    assert len(attempts) == 1  # one render
    assert sum(view.job.gpu_seconds > 0 for view in views.values()) == 1  # and one who pays

    again = farm.submit(submission(tiny, seed=20), PICTURE)  # answered from the store
    view = finish(farm, again.job.id)[again.job.id]
    assert view.job.gpu_seconds == 0
    forced = farm.submit(submission(tiny, seed=20, force=True), PICTURE)
    view = finish(farm, forced.job.id)[forced.job.id]
    assert view.job.gpu_seconds > 0
    assert len([p for p in (store / "clips" / digest).iterdir() if p.is_dir()]) == 2


def test_a_submission_repeated_is_the_same_job(farm: Farm, tiny: Path) -> None:
    asked = submission(tiny, seed=30)
    assert farm.submit(asked, PICTURE).job.id == farm.submit(asked, PICTURE).job.id == asked.id
    finish(farm, asked.id)
    assert farm.submit(asked, PICTURE).job.state is State.COMPLETED
    with pytest.raises(JobError, match="another job"):
        farm.submit(submission(tiny, seed=31, id=asked.id), PICTURE)


@pytest.mark.parametrize(
    ("changes", "picture", "words"),
    [
        ({}, b"", "empty"),
        ({}, b"nonsense", "not a picture"),
        ({"num_videos": 2, "seed": 2**64 - 1}, PICTURE, "2\\^64"),
        ({"width": 8192, "height": 8192, "num_frames": 9}, PICTURE, "8192 x 8192 x 9 pixels"),
    ],
)
def test_bad_requests_are_refused(
    changes: dict[str, Any], picture: bytes, words: str, farm: Farm, tiny: Path
) -> None:
    with pytest.raises(RequestError, match=words):
        farm.submit(submission(tiny, **changes), picture)


def test_models_that_are_none(farm: Farm, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="not an SVD checkpoint"):
        farm.submit(submission(tmp_path), PICTURE)
    with pytest.raises(JobError, match="no job 'nonsense'"):
        farm.show("nonsense")


def test_a_picture_broken_inside_fails_its_job_alone(farm: Farm, tiny: Path) -> None:
    bad = farm.submit(submission(tiny), PICTURE[: len(PICTURE) // 2]).job.id
    good = farm.submit(submission(tiny, seed=40), PICTURE).job.id
    views = finish(farm, bad, good)
    assert views[bad].job.state is State.FAILED
    assert "broken" in str(views[bad].job.error)
    assert views[bad].job.attempts == 0  # not tried again: no attempt can mend it
    assert views[good].job.state is State.COMPLETED


def test_nan_in_the_latents_fails_the_clip_and_names_the_step(farm: Farm, tiny: Path) -> None:
    job = farm.submit(submission(tiny, sigmas=(1e38, 1.0, 0.0)), PICTURE).job.id
    error = str(finish(farm, job)[job].job.error)
    assert error == "the latents hold NaN or Inf after step 1 of 2"


def test_cancel_stops_at_the_next_step_and_says_what_it_took(farm: Farm, tiny: Path) -> None:
    job = farm.submit(submission(tiny, seed=50, num_inference_steps=900), PICTURE).job.id
    under_way(farm, job)
    view = farm.cancel(job)
    assert view.job.state is State.CANCELLED
    assert view.job.gpu_seconds > 0
    assert view.progress.step < 900
    wait_for(lambda: all(w["state"] == "idle" for w in farm.status()["workers"].values()))
    assert farm.cancel(job).job.state is State.CANCELLED  # asked again
    with pytest.raises(JobError, match="it cannot pause"):
        farm.pause(job)


def test_a_cancel_that_is_asked_for_twice_is_one(farm: Farm, tiny: Path) -> None:
    job = farm.submit(submission(tiny, seed=53, num_inference_steps=900), PICTURE).job.id
    under_way(farm, job)
    with ThreadPoolExecutor(2) as threads:
        views = list(threads.map(farm.cancel, [job, job]))
    assert [view.job.state for view in views] == [State.CANCELLED] * 2
    assert all(view.job.gpu_seconds > 0 for view in views)


def test_jobs_that_share_clips_that_fail_all_end(farm: Farm, tiny: Path) -> None:
    before = farm.submit(submission(tiny, seed=54, num_inference_steps=900), PICTURE).job.id
    under_way(farm, before)
    poisoned = submission(tiny, num_videos=2, seed=55, sigmas=(1e38, 1.0, 0.0))
    jobs = [
        farm.submit(poisoned.model_copy(update={"id": name}), PICTURE).job.id
        for name in ("shares-0", "shares-1")
    ]
    farm.cancel(before)
    views = finish(farm, *jobs)
    assert [views[job].job.state for job in jobs] == [State.FAILED] * 2


def test_cancelling_one_of_two_leaves_the_other_its_clip(farm: Farm, tiny: Path) -> None:
    jobs = [farm.submit(submission(tiny, seed=51), PICTURE).job.id for _ in range(2)]
    assert farm.cancel(jobs[0]).job.state is State.CANCELLED
    assert finish(farm, jobs[1])[jobs[1]].job.state is State.COMPLETED


def test_pause_and_resume(farm: Farm, tiny: Path) -> None:
    job = farm.submit(submission(tiny, seed=52, num_inference_steps=30), PICTURE).job.id
    under_way(farm, job)
    assert farm.pause(job).job.state is State.PAUSED
    wait_for(lambda: all(w["state"] == "idle" for w in farm.status()["workers"].values()))
    step = farm.show(job).progress.step
    time.sleep(0.5)
    assert farm.show(job).progress.step == step < 30
    farm.resume(job)
    view = finish(farm, job)[job]
    assert view.job.state is State.COMPLETED
    assert hashes(view) == expected_sha256(tiny, PICTURE, view)


def test_order_priority_and_deadlines(farm: Farm, tiny: Path) -> None:
    first = farm.submit(submission(tiny, seed=60, num_inference_steps=40), PICTURE).job.id
    under_way(farm, first)
    late = submission(tiny, seed=61, start_within_s=0.2, priority=0)
    low = farm.submit(submission(tiny, seed=62, priority=10), PICTURE).job.id
    high = farm.submit(submission(tiny, seed=63), PICTURE).job.id
    slow = farm.submit(submission(tiny, seed=64, priority=0, finish_within_s=0.3), PICTURE).job.id
    farm.submit(late, PICTURE)
    assert farm.show(high).progress.queue_position == 1
    assert farm.show(low).progress.queue_position == 2
    farm.set_priority(low, 90)  # before all others, at the next segment
    assert farm.show(low).progress.queue_position == 0
    views = finish(farm, first, low, high, late.id, slow)
    assert views[late.id].job.error == "not started within 0.2 s"
    assert views[slow].job.error == "not finished within 0.3 s"
    ends = {job: views[job].job.finished_at for job in (first, low, high)}
    assert sorted(ends, key=lambda job: ends[job] or 0) == [low, first, high]
    assert views[first].job.results[0].sha256 == expected_sha256(tiny, PICTURE, views[first])[0]
    with pytest.raises(RequestError, match="from 0 to 100"):
        farm.set_priority(low, 101)


def test_a_full_queue_says_when_there_is_room(farm: Farm, tiny: Path) -> None:
    blocker = farm.submit(submission(tiny, seed=70, num_inference_steps=900), PICTURE).job.id
    jobs = [farm.submit(submission(tiny, seed=71 + n), PICTURE).job.id for n in range(59)]
    with pytest.raises(QueueFullError, match="60 open jobs") as caught:
        farm.submit(submission(tiny, seed=200), PICTURE)
    assert caught.value.retry_after_s > 0
    for job in [*jobs, blocker]:
        farm.cancel(job)


def test_draining_a_worker(farm: Farm, tiny: Path) -> None:
    status = farm.drain("renderer-0")
    assert status["workers"]["renderer-0"]["state"] == "drained"
    job = farm.submit(submission(tiny, seed=80), PICTURE).job.id
    time.sleep(1)
    assert farm.show(job).job.state is State.QUEUED
    farm.drain("renderer-0", False)
    assert finish(farm, job)[job].job.state is State.COMPLETED
    with pytest.raises(JobError, match="Unknown worker 'nobody'"):
        farm.drain("nobody")


@pytest.mark.parametrize("victim", ["renderer-0", "decoder-0"])
def test_a_killed_worker_costs_an_attempt_and_no_pixel(victim: str, farm: Farm, tiny: Path) -> None:
    seed = 90 + len(victim)
    job = farm.submit(submission(tiny, seed=seed, num_inference_steps=16), PICTURE).job.id
    wait_for(lambda: farm.status()["workers"][victim]["state"] == "busy")
    kill(farm.status()["workers"][victim]["place"])
    view = finish(farm, job)[job]
    assert view.job.state is State.COMPLETED, view.job.error
    assert view.job.attempts == 1
    assert hashes(view) == expected_sha256(tiny, PICTURE, view)
    assert "retry" in [entry.event for entry in farm.events(job)]


def test_a_killed_coordinator_goes_on_from_the_last_checkpoint(farm: Farm, tiny: Path) -> None:
    job = farm.submit(submission(tiny, seed=95, num_inference_steps=40), PICTURE).job.id
    waiting = farm.submit(submission(tiny, seed=96), PICTURE).job.id
    paused = farm.submit(submission(tiny, seed=97), PICTURE).job.id
    farm.pause(paused)
    under_way(farm, job, step=10)
    before = farm.ready()
    os.kill(before["pid"], signal.SIGKILL)
    after = farm.ready()
    assert after["fence"] == before["fence"] + 1
    view = finish(farm, job, waiting)[job]
    assert view.job.state is State.COMPLETED
    assert hashes(view) == expected_sha256(tiny, PICTURE, view)
    entries = farm.events(job)
    recovered = next(e.seq for e in entries if e.event == "recover")
    step = next(e.data["step"] for e in entries if e.seq > recovered and e.event == "progress")
    assert step > 8  # not from the beginning
    assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
    assert farm.show(paused).job.state is State.PAUSED
    farm.resume(paused)
    assert finish(farm, paused)[paused].job.state is State.COMPLETED


def test_the_operators_commands(
    farm: Farm, tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FARM_STORE", raising=False)

    def output_of(*arguments: str) -> str:
        assert main(arguments) == 0
        return capsys.readouterr().out

    job = farm.submit(submission(tiny, seed=98, num_inference_steps=900), PICTURE).job.id
    under_way(farm, job)
    status = output_of("status")
    assert "renderer-0" in status
    assert "denoise" not in status  # tasks are called by what they make
    assert "latents/" in status
    assert "default: 1 running" in status
    assert job in output_of("jobs")
    assert f"{job} is paused" in output_of("pause", job)
    assert f"{job} is queued" in output_of("resume", job)
    assert "  7  queued" in output_of("priority", job, "7") or "  7  running" in output_of("jobs")
    assert f"{job} is cancelled" in output_of("cancel", job)
    assert job not in output_of("jobs")
    assert "cancelled" in output_of("jobs", "--all", "--limit", "1000")
    assert '"state": "cancelled"' in output_of("show", job)
    log = output_of("logs", job, "--follow")
    assert "submitted" in log
    assert log.splitlines()[-1].split()[3] == "stopped"
    assert "drained" in output_of("drain", "decoder-0")
    assert "idle" in output_of("drain", "decoder-0", "--undo")
    assert main(["show", "nonsense"]) == 1
    assert "There is no job 'nonsense'" in capsys.readouterr().err


def test_another_store_than_the_farms_is_an_error(farm: Farm, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="keeps its store at"):
        open_farm(tmp_path)


def test_a_stale_coordinator_cannot_commit(farm: Farm, tiny: Path) -> None:
    """Its record was taken over: it ends, and the cluster's next one goes on."""
    job = farm.submit(submission(tiny, seed=99, num_inference_steps=30), PICTURE).job.id
    under_way(farm, job)
    store, pid = farm.store(), farm.ready()["pid"]
    key = f"jobs/{job}.json"
    stored = store.get(key)
    assert stored is not None
    store.put(key, stored.data.replace(b'"fence":', b'"fence": '), if_match=stored.etag)
    view = finish(farm, job)[job]
    assert view.job.state is State.COMPLETED
    assert farm.ready()["pid"] != pid
    assert store.exists(result_key(view.job.request.digest))


def test_no_cluster_to_look_at(monkeypatch: pytest.MonkeyPatch) -> None:
    from farm.client.ray_link import connect
    from farm.settings import load_settings

    monkeypatch.setenv("RAY_ADDRESS", "local")  # others may run on this machine
    with pytest.raises(WorkerError, match="no Ray cluster runs here"):
        connect(load_settings(store="/tmp"), start=False)
