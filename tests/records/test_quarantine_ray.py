"""A real coordinator on a store with unreadable objects: what operators and clients see."""

from pathlib import Path

import pytest

from farm.__main__ import main
from farm.model.job import State
from farm.store.keys import CHECKPOINTS, job_key, open_key
from tests.model.test_job import job
from tests.support.farm_jobs import finish, open_farm, picture_bytes, submission


@pytest.mark.slow
def test_a_farm_starts_over_broken_objects_and_says_so(
    tmp_path: Path, tiny: Path, ray_cluster: None, capsys: pytest.CaptureFixture[str]
) -> None:
    for key, data in {
        job_key("job-cut"): job(id="job-cut", tenant="acme").model_dump_json().encode()[:150],
        open_key("job-cut"): b'{"job": "job-cut", "tenant": "acme"}',
        "coordinator.json": b"",
        f"{CHECKPOINTS}.DS_Store": b"x",
        f"{CHECKPOINTS}{'a' * 64}/.nfs0001": b"x",
    }.items():
        path = tmp_path / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    farm = open_farm(tmp_path)
    lost = farm.show("job-cut").job
    assert (lost.state, lost.tenant) == (State.FAILED, "acme")
    assert "its record could not be read" in (lost.error or "")
    mine = farm.submit(submission(tiny), picture_bytes()).job.id
    assert finish(farm, mine)[mine].job.state is State.COMPLETED
    status = farm.status()
    assert status["quarantined"] == 2
    assert {note["key"] for note in status["quarantine"]} == {
        "coordinator.json",
        job_key("job-cut"),
    }
    assert main(["status"]) == 0
    assert "2 objects of the store cannot be read" in capsys.readouterr().out
    assert (tmp_path / CHECKPOINTS / ".DS_Store").exists()
