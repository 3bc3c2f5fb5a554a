"""What the scheduler counts and forgets: workers that leave, clips that go, tasks that wait."""

import pytest

from farm.model.plan import Kind, plan
from farm.scheduling import scheduler as module
from farm.scheduling.scheduler import MAX_ATTEMPTS, MAX_STRIKES, STORE_BACKOFF_S, Scheduler
from farm.scheduling.state import Fault, Run, Urgency, Verdict
from tests.model.test_plan import request
from tests.scheduling.test_scheduler import REQUEST, add, farm, finish_all, start, started


def test_a_worker_has_the_memory_that_it_joined_with() -> None:
    scheduler = Scheduler[Run]()
    scheduler.join("d0", Kind.DECODER, 2**30)
    scheduler.join("d1", Kind.DECODER)
    assert {name: each.memory for name, each in scheduler.workers.items()} == {
        "d0": 2**30,
        "d1": None,
    }


def test_a_task_gets_on_from_when_it_was_assigned() -> None:
    scheduler = farm()
    add(scheduler, "a")
    assert [assigned.progressed_at for assigned in start(scheduler, 7.0)] == [7.0]


def test_a_worker_that_was_draining_leaves_like_any_other() -> None:
    scheduler = farm(renderers=2)
    add(scheduler, "a")
    (assigned,) = start(scheduler)
    scheduler.drain(assigned.worker, True)
    scheduler.finish(assigned.worker)
    scheduler.leave(assigned.worker)
    assert [again.worker for again in start(scheduler)] == list(scheduler.workers)


def test_an_idle_worker_with_a_model_gets_nothing_while_it_drains() -> None:
    scheduler = farm()
    add(scheduler, "a")
    start(scheduler)
    finish_all(scheduler)
    scheduler.drain("r0", True)
    assert not start(scheduler)


def test_a_clip_that_changes_hands_is_counted_beside_what_its_tenant_has() -> None:
    scheduler = farm(renderers=3)
    mine = add(scheduler, "mine", tenant="me")
    for name in ("yours", "yours-too"):
        add(scheduler, name, tenant="you")
    start(scheduler)
    scheduler.set_urgency(mine, Urgency("you", 0.0))
    assert (scheduler.busy["me"], scheduler.busy["you"]) == (0, 3)
    finish_all(scheduler)
    assert not any(scheduler.busy.values())


def test_a_clip_that_goes_does_not_take_its_successor_along() -> None:
    scheduler = farm(renderers=0)
    first = add(scheduler, "a")
    second = add(scheduler, "a")
    scheduler.withdraw(first)
    assert scheduler.runs == {"a": second}
    scheduler.withdraw(second)
    assert scheduler.runs == {}


def test_nothing_is_due_where_nothing_failed() -> None:
    scheduler = farm()
    assert scheduler.next_retry() is None
    add(scheduler, "a")
    start(scheduler)
    at = scheduler.fail("r0", Fault.STORE, 3.0).retry_at
    assert scheduler.next_retry() == at == 3.0 + STORE_BACKOFF_S
    start(scheduler, at)
    assert scheduler.next_retry() is None


def test_a_worker_is_set_aside_whatever_becomes_of_the_clip() -> None:
    """Its third clip in a row may have been withdrawn, or have failed for good."""
    for last in ("withdrawn", "failed"):
        scheduler = farm()
        for number in range(MAX_STRIKES - 1):
            run = add(scheduler, f"clip-{number}")
            start(scheduler)
            scheduler.fail("r0", Fault.ERROR, 0.0)
            scheduler.withdraw(run)
        run = add(scheduler, "last")
        if last == "failed":  # elsewhere before
            run.attempts["conditioning"] = MAX_ATTEMPTS - 1
        start(scheduler)
        if last == "withdrawn":
            scheduler.withdraw(run)
        verdict = scheduler.fail("r0", Fault.ERROR, 0.0)
        assert verdict == Verdict(failed=last == "failed", restart_worker=True)


def test_a_task_that_broke_when_it_was_shared_is_tried_again_alone() -> None:
    scheduler = farm(renderers=0, decoders=3)
    run = Run("a", "svd", Urgency("me", 0.0))
    scheduler.add(run, plan(request(num_frames=8), 5, 25))
    (shared,) = start(scheduler)
    assert len(shared.helpers) == 2
    at = scheduler.fail(shared.worker, Fault.GANG, 0.0).retry_at
    assert at is not None
    (again,) = start(scheduler, at)
    assert (again.task, again.helpers, again.attempt) == (shared.task, (), 2)


def test_a_tenant_gets_no_more_helpers_than_it_may_have_workers() -> None:
    for most, helpers in ((1, 0), (2, 1), (3, 2), (9, 3)):
        scheduler = farm(renderers=0, decoders=4, me=most)
        run = Run("a", "svd", Urgency("me", 0.0))
        scheduler.add(run, plan(request(num_frames=8), 5, 25))
        (assigned,) = start(scheduler)
        assert len(assigned.helpers) == helpers
        assert assigned.worker not in assigned.helpers
        assert scheduler.busy["me"] == helpers + 1


def test_nobody_helps_while_another_clip_has_something_to_do() -> None:
    scheduler = farm(renderers=0, decoders=3)
    for name in ("a", "b"):
        run = Run(name, "svd", Urgency("me", 0.0))
        scheduler.add(run, plan(request(num_frames=8), 5, 25))
    assert [(assigned.run.id, len(assigned.helpers)) for assigned in start(scheduler)] == [
        ("a", 0),
        ("b", 1),
    ]


def test_a_plan_is_drawn_only_as_far_as_its_tasks_may_soon_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "NEAR", 2)
    scheduler = farm(renderers=0, decoders=1)
    asked = request(num_frames=32, decode_chunk_size=2)
    run = Run("a", "svd", Urgency("me", 0.0))
    scheduler.add(run, plan(asked, 5, 25))
    assert len(run.ready) == 2
    keys, sizes = [], []
    for now in (0.0, 1.0, 2.0):  # what backs off takes no place
        (assigned,) = start(scheduler, now)
        keys.append(assigned.task.key)
        scheduler.fail("d0", Fault.STORE, now)
        assert len(run.ready) == 2 + len(keys)
    while not run.done:
        for assigned in start(scheduler, 2.0 + STORE_BACKOFF_S):
            keys.append(assigned.task.key)
            sizes.append(len(run.ready))
            scheduler.finish(assigned.worker)
    assert len(set(keys)) == 17  # sixteen chunks and the video
    assert len(keys) == 20
    assert sizes[:4] == [4, 3, 2, 2]
    assert max(sizes[4:]) == 2


def test_a_plan_that_is_rewound_is_drawn_no_further_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NEAR", 2)
    scheduler = farm(renderers=0, decoders=1)
    run = Run("a", "svd", Urgency("me", 0.0))
    asked = request(num_frames=16, decode_chunk_size=2)
    scheduler.add(run, plan(asked, 5, 25))
    start(scheduler)
    scheduler.fail("d0", Fault.STORE, 0.0)
    scheduler.rewind(run, plan(asked, 5, 25))
    assert len(run.ready) == 2


def test_of_tenants_with_equally_few_workers_the_most_urgent_clip_is_next() -> None:
    scheduler = farm(renderers=1)
    add(scheduler, "usual", "you")
    add(scheduler, "urgent", "me", priority=90)
    assert started(scheduler) == [("urgent", "conditioning")]


def test_a_withdrawn_clip_that_was_backing_off_is_not_started() -> None:
    scheduler = farm()
    run = add(scheduler, "a")
    start(scheduler)
    scheduler.fail("r0", Fault.STORE, 0.0)
    assert scheduler.withdraw(run) == []
    assert not started(scheduler, STORE_BACKOFF_S)
    assert scheduler.next_retry() is None
    scheduler.add(again := Run("a", "svd", run.urgency), plan(REQUEST, 5))
    assert started(scheduler, STORE_BACKOFF_S) == [("a", "conditioning")]
    assert scheduler.runs == {"a": again}


def test_tasks_that_fail_together_are_retried_in_the_order_of_their_failures() -> None:
    scheduler = farm(renderers=1, decoders=2)
    run = Run("clip", "svd", Urgency("me", 0.0))
    asked = request(num_frames=4, decode_chunk_size=2)
    scheduler.add(run, plan(asked, 5, step=25))  # the rest is decoding, in two chunks
    first, second = start(scheduler)
    for name in (second.worker, first.worker):
        scheduler.fail(name, Fault.STORE, 7.0)
    again = [each.task.key for each in start(scheduler, 7.0 + STORE_BACKOFF_S)]
    assert again == [second.task.key, first.task.key]


def test_of_tenants_with_equal_claims_the_one_that_came_first_is_served() -> None:
    scheduler = farm()
    for tenant in ("b", "a", "c"):
        add(scheduler, tenant, tenant=tenant)
    assert [run for run, _ in started(scheduler)] == ["b"]
