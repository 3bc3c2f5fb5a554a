"""Adjustments of the wall clock affect no duration, no deadline and no retry."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import farm.clock
from farm.clock import FarmClock
from tests.model.test_job import job

# Those that write down when something was, for people or by a protocol.
TELL_THE_TIME = {
    "batch/__main__",
    "client/http_remote",
    "clock",
    "coordinator/answering",
    "coordinator/clips",
    "coordinator/intake",
    "coordinator/webhooks",
    "ingress/middleware/request_log",
    "model/job",
    "ownership/owner",
    "records/commits",
    "records/event_logs",
    "records/job_book",
    "records/salvage",
    "records/stored",
    "store/quarantine",
    # A scratch file's age is known by its folder's clock alone. Where a step of it makes a living
    # writer's look old, the writer's rename fails and its put is tried again.
    "store/local",
    "workers/task_log",
}


def test_the_wall_clock_is_read_only_to_tell_the_time() -> None:
    root = Path(farm.clock.__file__).parent
    readers = {
        str(path.relative_to(root).with_suffix(""))
        for path in root.rglob("*.py")
        if re.search(r"\btime\.time\(\)|datetime\.now|utcnow", path.read_text())
    }
    assert readers <= TELL_THE_TIME


@given(
    st.lists(
        st.tuples(
            st.floats(0, 1e5),  # seconds that pass
            st.floats(-1e6, 1e6),  # the step of the wall clock then
            st.booleans(),  # whether the coordinator is restarted after it
        ),
        max_size=12,
    )
)
def test_deadlines_outlast_any_steps_and_restarts(steps: list[tuple[float, float, bool]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        wall, up, passed = 1.7e9, 1000.0, 0.0
        patch.setattr("farm.clock.uptime", lambda: up)
        patch.setattr("farm.clock.time.time", lambda: wall)
        patch.setattr("farm.clock.boot", lambda: "boot")
        clock = FarmClock()
        asked = job().model_copy(update={"created_on": clock.now(), "finish_within_s": 1800.0})
        for seconds, step, restarted in steps:
            wall, up, passed = wall + seconds + step, up + seconds, passed + seconds
            if restarted:
                last, clock = clock.read(), FarmClock()
                clock.go_on(last)
            due = asked.due()
            assert due is not None
            assert due[0] - clock.now() == pytest.approx(1800 - passed, abs=1e-3)


def test_a_record_of_before_the_farms_clock_keeps_its_deadline() -> None:
    old = job().model_copy(update={"created_at": 1e9, "start_within_s": 60.0})
    due = old.due()
    assert due is not None
    assert due[0] == 1e9 + 60
