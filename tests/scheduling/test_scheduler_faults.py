"""How the scheduler treats faults, lost results and stops, by example."""

from dataclasses import replace
from typing import Any

import pytest

from farm.model.plan import Kind, plan
from farm.scheduling.scheduler import (
    BACKOFF_S,
    MAX_ATTEMPTS,
    MAX_REWINDS,
    MAX_STRIKES,
    STORE_BACKOFF_S,
    Scheduler,
)
from farm.scheduling.state import Fault, Reason, Run, Verdict
from tests.scheduling.test_scheduler import REQUEST, add, farm, finish_all, start, started


def test_a_retry_goes_elsewhere_or_waits_for_it() -> None:
    scheduler = farm(renderers=2)
    add(scheduler, "a")
    add(scheduler, "b", at=1.0)
    failing, other = start(scheduler)
    at = scheduler.fail(failing.worker, Fault.ERROR, 0.0).retry_at
    assert at == BACKOFF_S
    assert not start(scheduler, at)  # the other worker is at work, but will be free
    scheduler.finish(other.worker)
    again, _ = start(scheduler, at)
    assert (again.run.id, again.worker, again.attempt) == ("a", other.worker, 2)
    assert again.reason is Reason.ELSEWHERE


def test_a_retry_stays_where_there_is_nothing_else() -> None:
    scheduler = farm(renderers=1)
    scheduler.join("going", Kind.RENDERER)
    scheduler.drain("going", True)
    add(scheduler, "a")
    start(scheduler)
    at = scheduler.fail("r0", Fault.LOST, 0.0).retry_at
    assert at is not None
    (again,) = start(scheduler, at)
    assert (again.worker, again.attempt, again.reason) == ("r0", 2, Reason.ONLY)


# Faults


@pytest.mark.parametrize("fault", [Fault.ERROR, Fault.LOST])
def test_three_attempts_further_and_further_apart(fault: Fault) -> None:
    scheduler = farm(renderers=1)
    add(scheduler, "a")
    delays, now = [], 100.0
    for attempt in range(1, MAX_ATTEMPTS + 1):
        (assignment,) = start(scheduler, now)
        assert assignment.attempt == attempt
        verdict = scheduler.fail("r0", fault, now)
        if verdict.retry_at is not None:
            assert scheduler.next_retry() == verdict.retry_at
            assert not start(scheduler, verdict.retry_at - 0.01)
            delays.append(verdict.retry_at - now)
            now = verdict.retry_at
    assert delays == [BACKOFF_S, 4 * BACKOFF_S]
    assert verdict == Verdict(failed=True)


@pytest.mark.parametrize(("fault", "delay"), [(Fault.STORE, STORE_BACKOFF_S), (Fault.STOPPED, 0.0)])
def test_what_counts_as_no_attempt(fault: Fault, delay: float) -> None:
    scheduler = farm(renderers=1)
    add(scheduler, "a")
    now = 0.0
    for _ in range(3 * MAX_ATTEMPTS):
        (assignment,) = start(scheduler, now)
        assert assignment.attempt == 1
        assert scheduler.fail("r0", fault, now) == Verdict(failed=False, retry_at=now + delay)
        now += delay


def test_out_of_memory_is_tried_once_more_with_less() -> None:
    scheduler = farm(renderers=1)
    add(scheduler, "a")
    assert [assignment.low_memory for assignment in start(scheduler)] == [False]
    assert scheduler.fail("r0", Fault.MEMORY, 7.0) == Verdict(failed=False, retry_at=7.0)
    assert [
        (assignment.low_memory, assignment.attempt) for assignment in start(scheduler, 7.0)
    ] == [(True, 2)]
    assert scheduler.fail("r0", Fault.MEMORY, 8.0) == Verdict(failed=True)


def test_out_of_memory_is_no_fourth_attempt() -> None:
    scheduler = farm(renderers=1)
    add(scheduler, "a")
    for fault in (Fault.ERROR, Fault.ERROR, Fault.MEMORY):
        start(scheduler, 100.0)
        verdict = scheduler.fail("r0", fault, 50.0)
    assert verdict == Verdict(failed=True)


def test_a_poisoned_clip_fails_at_once_and_blames_nobody() -> None:
    scheduler = farm(renderers=1)
    for number in range(2 * MAX_STRIKES):
        run = add(scheduler, f"poison-{number}")
        start(scheduler)
        assert scheduler.fail("r0", Fault.REQUEST, 0.0) == Verdict(failed=True)
        scheduler.withdraw(run)


def strike(scheduler: Scheduler[Run], name: str) -> bool:
    """Let the only renderer fail a clip of that name; whether it is set aside for it."""
    run = scheduler.runs.get(name) or add(scheduler, name)
    (assignment,) = start(scheduler, 1e6)
    assert assignment.run is run
    verdict = scheduler.fail("r0", Fault.ERROR, 0.0)
    if verdict.failed or name != "same":
        scheduler.withdraw(run)
    return verdict.restart_worker


def test_a_worker_that_fails_three_clips_in_a_row_is_set_aside() -> None:
    scheduler = farm(renderers=1)
    assert [strike(scheduler, name) for name in "abcdef"] == [False, False, True] * 2


def test_one_clip_alone_sets_no_worker_aside() -> None:
    scheduler = farm(renderers=1)
    assert [strike(scheduler, "same") for _ in range(MAX_ATTEMPTS)] == [False] * 3


def test_a_success_clears_a_worker() -> None:
    scheduler = farm(renderers=1)
    for name in ("a", "b", "ok", "c", "d", "ok-too", "e"):
        if name.startswith("ok"):
            run = add(scheduler, name)
            start(scheduler)
            scheduler.finish("r0")
            scheduler.withdraw(run)
        else:
            assert not strike(scheduler, name)


# Lost results


def test_a_clip_whose_results_are_lost_is_planned_anew() -> None:
    """Eight chunks find their latents gone: that is one rewind, and no attempt of any of them."""
    scheduler = farm(renderers=1, decoders=2)
    run = add(scheduler, "a", step=25)
    first, second = start(scheduler)
    assert scheduler.fail(first.worker, Fault.STALE, 0.0) == Verdict(failed=False)
    assert not scheduler.is_current(second)
    assert not start(scheduler)  # until it is known where to go on
    assert scheduler.rewind(run, plan(REQUEST, 5, 20))
    assert scheduler.fail(second.worker, Fault.STALE, 0.0) == Verdict(failed=False)
    assert started(scheduler) == [("a", "latents/0025")]
    finish_all(scheduler)
    assert [assignment.attempt for assignment in start(scheduler)] == [1, 1]
    assert run.rewinds == 1


def test_what_a_rewound_clips_workers_make_counts_for_nothing() -> None:
    scheduler = farm(renderers=1, decoders=2)
    run = add(scheduler, "a", step=25)
    first, second = start(scheduler)
    scheduler.fail(first.worker, Fault.STALE, 0.0)
    scheduler.rewind(run, plan(REQUEST, 5, 25))
    left = set(run.unfinished)
    scheduler.finish(second.worker)
    assert run.unfinished == left
    assert set(scheduler.withdraw(run)) == set()


def test_a_withdrawn_clips_workers_are_told_stale_ones_too() -> None:
    scheduler = farm(renderers=1, decoders=2)
    run = add(scheduler, "a", step=25)
    first, second = start(scheduler)
    scheduler.fail(first.worker, Fault.STALE, 0.0)
    scheduler.rewind(run, plan(REQUEST, 5, 25))
    start(scheduler)
    assert set(scheduler.withdraw(run)) == {first.worker, second.worker}
    finish_all(scheduler)
    assert not scheduler.busy["me"]


def test_rewinds_come_to_an_end() -> None:
    scheduler = farm()
    run = add(scheduler, "a")
    may_go_on = []
    for _ in range(MAX_REWINDS + 1):
        (assignment,) = start(scheduler)
        assert assignment.attempt == 1
        scheduler.fail(assignment.worker, Fault.STALE, 0.0)
        may_go_on.append(scheduler.rewind(run, plan(REQUEST, 5)))
    assert may_go_on == [True] * MAX_REWINDS + [False]


# Stopping


def test_a_held_clip_waits_and_keeps_its_place() -> None:
    scheduler = farm(renderers=1)
    run = add(scheduler, "a")
    add(scheduler, "b")
    scheduler.set_urgency(run, replace(run.urgency, held=True))
    assert started(scheduler) == [("b", "conditioning")]
    scheduler.set_urgency(run, replace(run.urgency, held=False))
    finish_all(scheduler)
    assert started(scheduler) == [("a", "conditioning")]


@pytest.mark.parametrize("what", ["hold", "priority"])
def test_backing_off_goes_on_whatever_is_asked(what: str) -> None:
    scheduler = farm(renderers=1)
    run = add(scheduler, "a")
    start(scheduler)
    assert scheduler.fail("r0", Fault.STORE, 0.0).retry_at == STORE_BACKOFF_S
    if what == "hold":
        for held in (True, False):
            scheduler.set_urgency(run, replace(run.urgency, held=held))
    else:
        scheduler.set_urgency(run, replace(run.urgency, priority=90))
    assert not start(scheduler, STORE_BACKOFF_S - 0.1)
    assert len(start(scheduler, STORE_BACKOFF_S)) == 1


def test_decisions_nobody_asks_for_are_made_next_time() -> None:
    """Two retries wait for the busy worker, and nothing is lost when the caller stops early."""
    scheduler = farm(renderers=2)
    first = add(scheduler, "a")
    add(scheduler, "b", at=1.0)
    add(scheduler, "c", at=2.0)
    failing = next(scheduler.assign(0.0))
    assert failing.run is first
    other = next(scheduler.assign(0.0))
    scheduler.fail(failing.worker, Fault.ERROR, 0.0)
    decisions: Any = scheduler.assign(10.0)
    assert next(decisions).run.id == "c"  # past `a`, which waits for the other worker
    decisions.close()
    scheduler.finish(other.worker)
    assert started(scheduler, 10.0) == [("a", "conditioning")]
