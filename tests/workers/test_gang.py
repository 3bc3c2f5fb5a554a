"""Several workers on one clip: their number and losses do not change the frames (law 1)."""

from pathlib import Path

import pytest

from farm.client.farm import Farm
from farm.model.job import State
from farm.model.plan import Kind, Stage, Task
from farm.scheduling.scheduler import Scheduler
from farm.scheduling.state import Fault, Run, Urgency
from tests.support.farm_jobs import (
    expected_sha256,
    finish,
    open_farm,
    picture_bytes,
    submission,
    wait_for,
)
from tests.support.ganging import DEADLY

DECODE = Task("frames", Stage.DECODE, span=(0, 5), most=5)
CHUNK = Task("chunk", Stage.DECODE, span=(0, 5))


def scheduler(decoders: int, **caps: int) -> Scheduler[Run]:
    made = Scheduler[Run](caps)
    for number in range(decoders):
        made.join(f"decoder-{number}", Kind.DECODER)
    return made


def add(to: Scheduler[Run], name: str, task: Task = DECODE, tenant: str = "acme") -> Run:
    run = Run(name, "model", Urgency(tenant, 0.0))
    to.add(run, [task])
    return run


def test_idle_decoders_share_and_are_free_again_together() -> None:
    some = scheduler(3)
    add(some, "clip")
    (shared,) = some.assign(0.0)
    assert sorted(shared.members) == ["decoder-0", "decoder-1", "decoder-2"]
    assert some.busy["acme"] == 3
    assert {worker.task for worker in some.workers.values()} == {shared}
    some.finish(shared.worker)
    assert some.busy["acme"] == 0
    assert all(worker.task is None for worker in some.workers.values())


def test_no_one_helps_while_another_clip_waits() -> None:
    some = scheduler(4)
    for name in ("one", "two", "three"):
        add(some, name)
    sizes = [len(shared.members) for shared in some.assign(0.0)]
    assert sum(sizes) == 4
    assert len(sizes) == 3


def test_a_chunk_is_not_shared_and_caps_hold() -> None:
    some = scheduler(3)
    add(some, "clip", CHUNK)
    (alone,) = some.assign(0.0)
    assert alone.helpers == ()
    capped = scheduler(4, acme=2)
    add(capped, "clip")
    (shared,) = capped.assign(0.0)
    assert len(shared.members) == 2


def test_those_share_whose_memory_holds_a_share() -> None:
    clip = Task("frames", Stage.DECODE, span=(0, 12), most=12, frame_bytes=10)
    for memories, size in (
        ([None, None, None], 3),
        ([90, 90, 1000], 3),  # four frames each, and five on the way; the last is the first
        ([70, 1000, 1000], 2),
        ([70, 70, 1000], 1),
        ([80, 90, 1000], 1),  # of two, each would hold six
    ):
        some = Scheduler[Run]()
        for number, memory in enumerate(memories):
            some.join(f"decoder-{number}", Kind.DECODER, memory)
        add(some, "clip", clip)
        (shared,) = some.assign(0.0)
        assert len(shared.members) == size, memories


def test_as_many_as_there_are_frames() -> None:
    some = scheduler(9)
    add(some, "clip")
    (shared,) = some.assign(0.0)
    assert len(shared.members) == 5


def test_a_lost_member_is_avoided_and_the_others_share_again() -> None:
    some = scheduler(3)
    run = add(some, "clip")
    (shared,) = some.assign(0.0)
    lost = shared.helpers[0]
    verdict = some.fail(lost, Fault.LOST, 0.0)
    some.leave(lost)
    assert (verdict.failed, verdict.retry_at) == (False, 1.0)
    (again,) = some.assign(1.0)
    assert set(again.members) == set(shared.members) - {lost}
    assert some.is_current(again)
    assert set(run.running) == set(again.members)


def test_a_gang_that_broke_of_itself_is_not_formed_again() -> None:
    some = scheduler(3)
    add(some, "clip")
    (shared,) = some.assign(0.0)
    some.fail(shared.worker, Fault.GANG, 0.0)
    (again,) = some.assign(1.0)
    assert again.helpers == ()


def test_withdrawn_all_its_workers_are_named() -> None:
    some = scheduler(3)
    run = add(some, "clip")
    (shared,) = some.assign(0.0)
    assert sorted(some.withdraw(run)) == sorted(shared.members)


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Farm:
    return open_farm(tmp_path_factory.mktemp("store"), workers=3, engine="tests.support.ganging")


def gangs(farm: Farm, digest: str) -> list[int]:
    """How many shared each attempt at a clip's decode."""
    store = farm.store()
    sizes = []
    for key in store.list(f"gangs/{digest}/"):
        stored = store.get(key)
        assert stored is not None
        sizes.append(int(stored.data))
    return sizes


def test_a_clip_is_shared_and_its_frames_are_the_engines(farm: Farm, tiny: Path) -> None:
    wait_for(lambda: [w["state"] for w in farm.status()["workers"].values()] == ["idle"] * 6)
    picture = picture_bytes(7)
    job = farm.submit(submission(tiny, seed=70, decode_chunk_size=None), picture).job.id
    view = finish(farm, job)[job]
    assert [r.sha256 for r in view.job.results] == expected_sha256(tiny, picture, view)
    assert gangs(farm, view.job.results[0].request.digest) == [3, 3, 3]


def test_chunks_over_three_workers_are_the_engines_too(farm: Farm, tiny: Path) -> None:
    picture = picture_bytes(3)
    job = farm.submit(submission(tiny, num_videos=2), picture).job.id
    view = finish(farm, job)[job]
    assert [r.sha256 for r in view.job.results] == expected_sha256(tiny, picture, view)


def idle_decoders(farm: Farm) -> int:
    workers = farm.status()["workers"]
    return sum(w["state"] == "idle" for name, w in workers.items() if name.startswith("decoder"))


def lives(farm: Farm, tiny: Path, count: int) -> None:
    """So many clips, one after the other, each of which loses a helper as it is decoded."""
    for seed in range(100, 100 + count):
        wait_for(lambda: idle_decoders(farm) >= 2, 120)
        asked = submission(tiny, seed=seed, fps=DEADLY, decode_chunk_size=None)
        job = farm.submit(asked, picture_bytes()).job.id
        view = finish(farm, job)[job]
        assert view.job.state is State.COMPLETED, view.job.error
        assert [r.sha256 for r in view.job.results] == expected_sha256(tiny, picture_bytes(), view)
        digest = view.job.results[0].request.digest
        assert farm.store().exists(f"deaths/{digest}")
        assert any(entry.event == "retry" for entry in farm.events(job))


def test_a_helper_is_killed_in_the_midst(farm: Farm, tiny: Path) -> None:
    lives(farm, tiny, 1)


@pytest.mark.slow
def test_ten_helpers_are_killed_in_the_midst(farm: Farm, tiny: Path) -> None:
    lives(farm, tiny, 10)
