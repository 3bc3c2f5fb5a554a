"""The scheduler's policy by example. test_scheduler_laws.py has what must always hold."""

import itertools
import random
from collections import Counter
from dataclasses import replace

import pytest

from farm.model.plan import Kind, Stage, plan
from farm.scheduling.scheduler import Scheduler
from farm.scheduling.state import AGING_S, Assignment, Reason, Run, Urgency
from tests.model.test_plan import request

SEGMENTS = 5  # of five steps
CHUNKS = 4
REQUEST = request(num_frames=8, decode_chunk_size=2)


def farm(renderers: int = 1, decoders: int = 0, **max_gpus: int) -> Scheduler[Run]:
    scheduler = Scheduler[Run](max_gpus)
    for number in range(renderers):
        scheduler.join(f"r{number}", Kind.RENDERER)
    for number in range(decoders):
        scheduler.join(f"d{number}", Kind.DECODER)
    return scheduler


def add(
    scheduler: Scheduler[Run],
    name: str,
    tenant: str = "me",
    at: float = 0.0,
    priority: int = 50,
    model: str = "svd",
    step: int = 0,
) -> Run:
    run = Run(name, model, Urgency(tenant, at, priority))
    scheduler.add(run, plan(REQUEST, 5, step))
    return run


def start(scheduler: Scheduler[Run], now: float = 0.0) -> list[Assignment[Run]]:
    return list(scheduler.assign(now))


def started(scheduler: Scheduler[Run], now: float = 0.0) -> list[tuple[str, str]]:
    return [(assignment.run.id, assignment.task.key) for assignment in start(scheduler, now)]


def finish_all(scheduler: Scheduler[Run]) -> None:
    for worker in list(scheduler.workers.values()):
        if worker.task is not None:
            run = scheduler.finish(worker.name).run
            if run.done:
                scheduler.withdraw(run)


# Order


def test_a_clip_from_first_to_last() -> None:
    scheduler = farm(renderers=1, decoders=1)
    run = add(scheduler, "clip")
    stages = []
    while not run.done:
        (assignment,) = start(scheduler)
        stages.append(assignment.task.stage)
        assert (assignment.attempt, assignment.low_memory) == (1, False)
        scheduler.finish(assignment.worker)
    assert stages == (
        [Stage.ENCODE] + [Stage.DENOISE] * SEGMENTS + [Stage.DECODE] * CHUNKS + [Stage.MUX]
    )


def test_chunks_of_one_clip_are_decoded_at_once() -> None:
    scheduler = farm(renderers=0, decoders=3)
    add(scheduler, "clip", step=25)
    assert started(scheduler) == [
        ("clip", "frames/0000-0002"),
        ("clip", "frames/0002-0004"),
        ("clip", "frames/0004-0006"),
    ]
    assert len({worker.task for worker in scheduler.workers.values()}) == 3


def test_one_clip_is_decoded_while_the_next_is_denoised() -> None:
    scheduler = farm(renderers=1, decoders=1)
    add(scheduler, "first", step=20)
    add(scheduler, "second")
    start(scheduler)
    scheduler.finish("r0")
    assert started(scheduler) == [("second", "conditioning"), ("first", "frames/0000-0002")]


def test_a_better_clip_goes_first_at_the_end_of_a_segment() -> None:
    scheduler = farm(renderers=1)
    usual = add(scheduler, "usual")
    for _ in range(3):
        start(scheduler)
        finish_all(scheduler)
    assert started(scheduler) == [("usual", "latents/0015")]
    add(scheduler, "urgent", at=10.0, priority=90)
    assert not start(scheduler, 10.0)  # what runs is left to end
    finish_all(scheduler)
    for key in ("conditioning", *(f"latents/{step:04d}" for step in (5, 10, 15, 20, 25))):
        assert started(scheduler, 10.0) == [("urgent", key)]
        finish_all(scheduler)
    assert started(scheduler, 20.0) == [("usual", "latents/0020")]  # and nothing is done twice
    assert usual.attempts["latents/0020"] == 1


def test_first_in_first_out_within_a_priority() -> None:
    scheduler = farm(renderers=1)
    for name in ("a", "b", "c"):
        add(scheduler, name, at=5.0)
    assert started(scheduler) == [("a", "conditioning")]
    finish_all(scheduler)
    assert started(scheduler) == [("a", "latents/0005")]  # a begun clip is not overtaken


def test_waiting_wins_over_priority_in_the_end() -> None:
    """An endless stream of clips of priority 100 holds one of 0 up for 100 minutes, no longer."""
    scheduler = farm(renderers=1)
    add(scheduler, "poor", priority=0, step=20)
    now = 0.0
    for number in itertools.count():
        add(scheduler, f"rich-{number}", at=now, priority=100, step=20)
        (assignment,) = start(scheduler, now)
        if assignment.run.id == "poor":
            break
        now += 30.0
        finish_all(scheduler)
    assert now == pytest.approx(100 * AGING_S, abs=30.0)


def test_a_new_priority_counts_at_once() -> None:
    scheduler = farm(renderers=1)
    add(scheduler, "a")
    late = add(scheduler, "b", at=1.0)
    scheduler.set_urgency(late, replace(late.urgency, priority=51))
    assert started(scheduler) == [("b", "conditioning")]


# Tenants


def test_tenants_share_alike() -> None:
    scheduler = farm(renderers=9)
    for number in range(100):
        add(scheduler, f"many-{number}", "many", priority=100)
    for number in range(5):
        add(scheduler, f"some-{number}", "some", at=9000.0, priority=0)
    add(scheduler, "one", "one", at=9000.0)
    assert Counter(run.split("-")[0] for run, _ in started(scheduler)) == {
        "many": 4,
        "some": 4,
        "one": 1,
    }
    assert scheduler.busy == {"many": 4, "some": 4, "one": 1}


def test_tenants_take_turns_on_a_single_worker() -> None:
    """However long the backlog of one is, however early it came, and however urgent it is."""
    scheduler, turns = farm(renderers=1), ""
    for number in range(20):
        add(scheduler, f"many-{number}", "many", priority=100)
    for number in range(2):  # a clip of six tasks each time
        add(scheduler, f"late-{number}", "late", at=9000.0, priority=0)
        for _ in range(14):
            ((run, _),) = started(scheduler)
            turns += run[0]
            finish_all(scheduler)
    assert turns == "ml" * 6 + "mm" + "lm" * 6 + "mm"


def test_no_tenant_has_more_than_its_gpus() -> None:
    scheduler = farm(renderers=4, decoders=2, small=2)
    for number in range(3):
        add(scheduler, f"a-{number}", "small")
    add(scheduler, "b", "small", step=25)
    assert len(start(scheduler)) == 2
    assert scheduler.busy["small"] == 2
    add(scheduler, "c", "other")
    assert started(scheduler) == [("c", "conditioning")]


# Where to


def test_a_clip_stays_where_it_is() -> None:
    scheduler = farm(renderers=3)
    for name in ("a", "b", "c"):
        add(scheduler, name)
    homes = {assignment.run.id: assignment.worker for assignment in start(scheduler)}
    finish_all(scheduler)
    for _ in range(3):
        again = start(scheduler)
        assert {assignment.run.id: assignment.worker for assignment in again} == homes
        assert {assignment.reason for assignment in again} == {Reason.STAYS}
        for name in random.Random(0).sample(sorted(homes.values()), 3):
            scheduler.finish(name)


def test_a_loaded_model_is_used_again() -> None:
    scheduler = farm(renderers=2)
    add(scheduler, "a", model="svd")
    add(scheduler, "b", model="svd-xt")
    first = {assignment.run.model: assignment for assignment in start(scheduler)}
    assert {assignment.reason for assignment in first.values()} == {Reason.NEXT}
    for run in (first["svd"].run, first["svd-xt"].run):
        scheduler.withdraw(run)
    finish_all(scheduler)
    add(scheduler, "c", model="svd-xt")
    add(scheduler, "d", model="svd")
    second = {assignment.run.model: assignment for assignment in start(scheduler)}
    assert {assignment.reason for assignment in second.values()} == {Reason.MODEL}
    assert all(second[model].worker == first[model].worker for model in first)


def test_a_worker_without_a_model_is_taken_before_one_with_another() -> None:
    scheduler = farm(renderers=1)
    add(scheduler, "a", model="svd")
    start(scheduler)
    finish_all(scheduler)
    scheduler.withdraw(scheduler.runs["a"])
    scheduler.join("new", Kind.RENDERER)
    add(scheduler, "b", model="svd-xt")
    assert [(assignment.worker, assignment.reason) for assignment in start(scheduler)] == [
        ("new", Reason.NEXT)
    ]


def test_a_draining_worker_ends_its_task_and_gets_no_other() -> None:
    scheduler = farm(renderers=1)
    add(scheduler, "a")
    start(scheduler)
    scheduler.drain("r0", True)
    scheduler.finish("r0")
    assert not start(scheduler)
    scheduler.drain("r0", False)
    assert len(start(scheduler)) == 1


# Clips that change hands, workers that leave


def test_a_clip_that_is_given_away_queues_and_counts_as_its_new_tenants() -> None:
    scheduler = farm(renderers=2, you=1)
    mine = add(scheduler, "mine", tenant="me", at=5.0)
    start(scheduler)
    scheduler.set_urgency(mine, Urgency("you", 1.0))
    assert mine.urgency == Urgency("you", 1.0)
    assert (scheduler.busy["me"], scheduler.busy["you"]) == (0, 1)
    add(scheduler, "another", tenant="you")
    assert not start(scheduler)  # it has its one worker
    finish_all(scheduler)
    assert started(scheduler) == [("another", "conditioning")]  # submitted at 0.0, before 1.0


def test_a_worker_that_left_gets_no_task() -> None:
    scheduler = farm(renderers=2)
    scheduler.leave("r1")
    assert list(scheduler.workers) == ["r0"]
    for name in ("a", "b"):
        add(scheduler, name)
    assert [assignment.worker for assignment in start(scheduler)] == ["r0"]
    assert scheduler.waits(Kind.RENDERER)
    assert not scheduler.waits(Kind.DECODER)
    scheduler.finish("r0")
    scheduler.leave("r0")  # it holds a model by now
    assert not start(scheduler)


def test_nothing_waits_where_every_task_has_a_worker() -> None:
    scheduler = farm(renderers=1)
    add(scheduler, "a")
    start(scheduler)
    assert not scheduler.waits(Kind.RENDERER)
