"""What each worker did in the last ten minutes."""

from hypothesis import given
from hypothesis import strategies as st

from farm.coordinator.work_history import GAP_S, KEPT_S, MOST, WorkHistory
from farm.model.plan import Stage
from tests.support.core import ManualClock


def test_tasks_of_one_stage_are_one_stretch_unless_the_worker_rested() -> None:
    clock = ManualClock()
    history = WorkHistory(clock)
    for seconds, stage in ((0, Stage.ENCODE), (0, Stage.DENOISE), (GAP_S / 2, Stage.DENOISE)):
        clock.time += seconds
        begun = history.begin(["r"], stage)
        clock.time += 10
        history.end(begun)
    clock.time += 30
    history.begin(["r", "s"], Stage.DENOISE)
    clock.time += 5
    assert history.of("r") == [
        (Stage.ENCODE, 65.5, 55.5),
        (Stage.DENOISE, 55.5, 35.0),
        (Stage.DENOISE, 5.0, 0.0),
    ]
    assert history.of("s") == [(Stage.DENOISE, 5.0, 0.0)]
    history.keep(["r"])
    assert history.of("s") == []


@given(st.lists(st.tuples(st.floats(0, 400), st.floats(0, 400), st.sampled_from(Stage))))
def test_stretches_are_of_the_last_minutes_in_order_and_apart(
    lives: list[tuple[float, float, Stage]],
) -> None:
    clock = ManualClock()
    history = WorkHistory(clock)
    for rest, work, stage in lives:
        clock.time += rest
        begun = history.begin(["r"], stage)
        clock.time += work
        history.end(begun)
    found = history.of("r")
    assert len(found) <= MOST
    assert all(began >= ended >= 0 and ended <= KEPT_S for _, began, ended in found)
    ends = [ended for _, _, ended in found]
    assert all(e >= began - 0.11 for e, (_, began, _) in zip(ends, found[1:], strict=False))


def test_a_worker_that_works_without_a_pause_takes_no_more_memory() -> None:
    clock = ManualClock()
    history = WorkHistory(clock)
    for n in range(3 * MOST):
        begun = history.begin(["r"], list(Stage)[n % 2])
        clock.time += 0.1
        history.end(begun)
    assert len(history.of("r")) == MOST


def test_a_task_that_ends_late_does_not_end_the_next_one() -> None:
    clock = ManualClock()
    history = WorkHistory(clock)
    lost = history.begin(["r"], Stage.DENOISE)
    clock.time += 10
    history.begin(["r"], Stage.DECODE)
    clock.time += 10
    history.end(lost)
    clock.time += 10
    assert history.of("r") == [(Stage.DENOISE, 30.0, 20.0), (Stage.DECODE, 20.0, 0.0)]
