"""Faults in a request break only its own job, on real workers."""

import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from ray.exceptions import RayTaskError

from farm.client.farm import Farm
from farm.errors import RequestError, WorkerError, strip_directories
from farm.model.job import State
from farm.model.request import digest_of
from farm.scheduling.scheduler import MAX_STRIKES
from farm.scheduling.state import Fault
from farm.store.keys import picture_key
from farm.workers.faults import TaskError
from farm.workers.pool import _task_error
from tests.conftest import draw_picture
from tests.picture_memory import encoded
from tests.support.farm_jobs import finish, open_farm, picture_bytes, submission, wait_for

NAMES = st.text(alphabet="abcXYZ019_.-", min_size=1, max_size=9)


@given(st.lists(NAMES, min_size=2, max_size=6), st.sampled_from(["{}", "'{}'", "at {}: x", "({})"]))
def test_a_message_keeps_of_a_path_its_last_part(parts: list[str], around: str) -> None:
    message = strip_directories(around.format("/" + "/".join(parts)))
    assert message == around.format(parts[-1])


@pytest.mark.parametrize("text", ["3/4 of it", "s3://a/b", "http://a.b/c/d", "and/or", "image/png"])
def test_what_is_no_path_of_this_machine_stays(text: str) -> None:
    assert strip_directories(text) == text


@pytest.mark.parametrize(
    ("cause", "fault", "message"),
    [
        (RequestError("it is in /srv/a/b.png"), Fault.REQUEST, "it is in b.png"),
        (WorkerError("no /srv/models/x.json"), Fault.ERROR, "no x.json"),
        (OSError("cannot read '/srv/a/b'"), Fault.ERROR, "OSError: cannot read 'b'"),
    ],
)
def test_a_client_is_told_no_places(
    cause: Exception, fault: Fault, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "farm"):
        error = _task_error(RayTaskError("run", "a traceback", cause))
    assert isinstance(error, TaskError)
    assert (error.fault, str(error)) == (fault, message)
    assert "/srv/" in caplog.text


def truncated(seed: int) -> bytes:
    """A whole head over broken pixels: only a worker finds out."""
    whole = picture_bytes(seed)
    return whole[: len(whole) // 2]


def with_bad_exif() -> bytes:
    made = Image.Exif()
    made[0x0112], made[0x010E] = 6, "a description"
    block = made.tobytes()
    return encoded(draw_picture(90, 60), "PNG", exif=block[:14] + b"\xff" * (len(block) - 14))


@pytest.mark.slow
def test_a_request_is_no_strike_against_a_worker(
    tiny: Path, tmp_path: Path, ray_cluster: None
) -> None:
    quick = {"num_inference_steps": 1, "num_frames": 2}
    farm = open_farm(tmp_path)
    wait_for(lambda: all(places(farm).values()), 120)
    before = places(farm)
    farm.drain("renderer-0", True)  # nothing begins while pictures are damaged
    damaged, broken = (
        [farm.submit(submission(tiny, **quick), make(seed)).job.id for seed in range(MAX_STRIKES)]
        for make in (picture_bytes, truncated)
    )
    fine = farm.submit(submission(tiny, **quick), with_bad_exif()).job.id
    for seed in range(MAX_STRIKES):
        path = tmp_path / picture_key(digest_of(picture_bytes(seed)))
        path.write_bytes(path.read_bytes()[:-9])
    farm.drain("renderer-0", False)
    views = finish(farm, *damaged, *broken, fine)
    assert views[fine].job.state is State.COMPLETED, views[fine].job.error
    for job in (*damaged, *broken):
        error = views[job].job.error or ""
        assert views[job].job.state is State.FAILED
        assert ("was damaged: send it again" if job in damaged else "is broken") in error
        assert str(tmp_path) not in error
    for job in views:
        events = farm.events(job)
        assert "retry" not in {entry.event for entry in events}
        assert str(tmp_path) not in str([entry.data for entry in events])
    assert places(farm) == before


def places(farm: Farm) -> dict[str, str]:
    """Where each worker is, process and all; empty where it is not up."""
    return {name: worker.get("place", "") for name, worker in farm.status()["workers"].items()}
