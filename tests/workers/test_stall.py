"""A worker that hangs without dying, on real Ray."""

from pathlib import Path

import pytest

from farm.model.job import State
from tests.support.farm_jobs import expected_sha256, finish, open_farm, picture_bytes, submission


@pytest.mark.slow
def test_a_worker_that_hangs_is_ended_and_its_clip_goes_on(
    tiny: Path, tmp_path: Path, ray_cluster: None
) -> None:
    farm = open_farm(tmp_path, engine="tests.support.stalling", stall_s=8.0)
    job = farm.submit(submission(tiny), picture_bytes()).job.id
    view = finish(farm, job)[job]
    assert view.job.state is State.COMPLETED, view.job.error
    assert view.job.results[0].sha256 == expected_sha256(tiny, picture_bytes(), view)[0]
    (retry,) = [entry for entry in farm.events(job) if entry.event == "retry"]
    assert "attempt 1 on renderer-0: no progress within 8 s" in retry.data["why"]
    assert (tmp_path / "hung").exists()
