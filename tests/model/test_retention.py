"""What may be deleted from a store, as a function of what is in it."""

from collections import defaultdict
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.model.retention import (
    CLAIM_S,
    GRACE_S,
    Facts,
    Inventory,
    Item,
    Kind,
    Policy,
    freed,
    plan,
)
from farm.store.keys import artifact_keys, attempt_prefix, job_key, picture_key, result_key
from farm.store.protocol import Entry

NOW = 1e9
OLD = NOW - 2 * GRACE_S
CLIPS = [digit * 64 for digit in "abc"]
PICTURES = [digit * 64 for digit in "123"]


def attempt_of(clip: str, number: int = 1) -> str:
    return attempt_prefix(artifact_keys(clip, f"1-{number}")[0])


def inventory(*jobs: Facts, written_at: float = OLD, size: int = 10) -> Inventory:
    """A store of jobs, with all clips and pictures; every object has the same size."""
    found = Inventory(list(jobs), {job.job for job in jobs})
    for job in jobs:
        found.own[job.job].append(Entry(job_key(job.job), size, written_at))
    for clip in CLIPS:
        keys = [result_key(clip), *artifact_keys(clip, "1-1")]
        found.clips[clip] = [Entry(key, size, written_at) for key in keys]
    found.pictures = {each: Entry(picture_key(each), size, written_at) for each in PICTURES}
    return found


def ended(name: str, at: float, clip: str = CLIPS[0], picture: str = PICTURES[0]) -> Facts:
    return Facts(name, f"tenant-of-{name}", at, picture, frozenset({attempt_of(clip)}))


def names(items: list[Item]) -> set[tuple[str, str]]:
    return {(item.kind, item.name) for item in items}


def test_what_no_job_names_is_deleted_once_it_is_old() -> None:
    unnamed = {
        *((Kind.CLIP, clip) for clip in CLIPS[1:]),
        *((Kind.PICTURE, picture) for picture in PICTURES[1:]),
    }
    job = ended("job", NOW)
    assert names(plan(inventory(job), Policy(), NOW)) == unnamed
    young = inventory(job, written_at=NOW - GRACE_S + 1)
    assert plan(young, Policy(), NOW) == []


def test_a_clip_that_an_open_job_waits_for_stays_and_so_do_its_checkpoints() -> None:
    waits = Facts("job", "one", None, PICTURES[1], awaited=frozenset({CLIPS[1]}))
    found = inventory(waits)
    for clip in CLIPS:
        found.checkpoints[clip].append(Entry(f"checkpoints/{clip}/0005.safetensors", 1, OLD))
        found.markers[clip].append(Entry(f"answered/one/{clip}", 0, OLD))
    kinds = {(kind, name) for kind, name in names(plan(found, Policy(keep_s=0), NOW))}
    for kind in (Kind.CLIP, Kind.CHECKPOINT, Kind.LEFTOVER):
        assert {name for each, name in kinds if each is kind} == {CLIPS[0], CLIPS[2]}
    assert (Kind.PICTURE, PICTURES[1]) not in kinds


def test_jobs_expire_by_the_time_since_their_end() -> None:
    jobs = [ended("old", NOW - 100, CLIPS[0]), ended("new", NOW - 99, CLIPS[1], PICTURES[1])]
    items = plan(inventory(*jobs, written_at=NOW), Policy(keep_s=100), NOW)
    # What the job named need not be old itself, unlike what no job ever named.
    assert names(items) == {("job", "old"), ("clip", CLIPS[0]), ("picture", PICTURES[0])}
    assert {item.tenant for item in items} == {"tenant-of-old"}
    assert [(row.kind, row.items, row.objects, row.bytes) for row in freed(items)] == [
        ("job", 1, 1, 10),
        ("clip", 1, 5 - 1, 40),
        ("picture", 1, 1, 10),
    ]


def test_a_shared_clip_stays_for_the_other_job() -> None:
    jobs = [ended("old", NOW - 100), ended("new", NOW)]
    items = plan(inventory(*jobs, written_at=NOW), Policy(keep_s=100), NOW)
    assert names(items) == {("job", "old")}


@pytest.mark.parametrize(
    ("committed", "first", "second"),
    [(1, False, True), (2, True, False), (0, True, True)],
)
def test_lost_artifacts_of_a_clip_that_stays(committed: int, first: bool, second: bool) -> None:
    """Neither what a job names nor what the clip's record names is lost."""
    clip = CLIPS[0]
    waits = Facts("waits", "one", None, PICTURES[0], awaited=frozenset({clip}))
    found = inventory(waits)
    found.clips[clip] += [Entry(key, 10, OLD) for key in artifact_keys(clip, "1-2")]
    assert found.doubtful() == [clip]
    found.committed = {attempt_of(clip, committed)} if committed else set()
    lost = {item.name for item in plan(found, Policy(), NOW) if item.kind is Kind.ARTIFACT}
    assert lost == {
        attempt_of(clip, number) for number, is_lost in ((1, first), (2, second)) if is_lost
    }
    named = replace(found, jobs=[waits, ended("has-1", NOW), ended("has-2", NOW)])
    named.jobs[2] = named.jobs[2]._replace(attempts=frozenset({attempt_of(clip, 2)}))
    assert not [item for item in plan(named, Policy(), NOW) if item.kind is Kind.ARTIFACT]


def test_claims_and_leftovers() -> None:
    found = inventory(ended("there", NOW))
    found.claims = [Entry("new", 1, NOW - CLAIM_S + 1), Entry("old", 1, NOW - CLAIM_S - 1)]
    found.own["gone"].append(Entry("events/gone/00000001.jsonl", 5, OLD))
    found.recorded.add("unreadable")  # its record is there, and says nothing
    found.own["unreadable"].append(Entry(job_key("unreadable"), 5, OLD))
    kinds = (Kind.CLAIM, Kind.LEFTOVER)
    items = [item for item in plan(found, Policy(), NOW) if item.kind in kinds]
    assert names(items) == {(Kind.CLAIM, "old"), (Kind.LEFTOVER, "gone")}


JOBS = st.lists(
    st.tuples(
        st.none() | st.integers(0, 100),
        st.sampled_from(PICTURES),
        st.frozensets(st.sampled_from(CLIPS)),
        st.frozensets(st.sampled_from(CLIPS)),
    ),
    max_size=8,
)


def facts(number: int, drawn: tuple[int | None, str, frozenset[str], frozenset[str]]) -> Facts:
    age, picture, has, awaits = drawn
    at = None if age is None else NOW - age
    attempts = frozenset(map(attempt_of, has))
    awaited = awaits if at is None else frozenset[str]()
    return Facts(f"job-{number}", "one", at, picture, attempts, awaited)


@given(JOBS, st.none() | st.integers(0, 100), st.none() | st.integers(0, 200))
def test_the_laws(
    drawn: list[tuple[int | None, str, frozenset[str], frozenset[str]]],
    keep_s: int | None,
    keep_bytes: int | None,
) -> None:
    jobs = [facts(number, each) for number, each in enumerate(drawn)]
    found = inventory(*jobs)
    items = plan(found, Policy(keep_s, keep_bytes), NOW)
    gone = {kind: {i.name for i in items if i.kind is kind} for kind in Kind}
    kept = [job for job in jobs if job.job not in gone[Kind.JOB]]
    # Only jobs that have ended go, and with them and without them whatever nobody else names.
    assert all(job.ended_at is not None for job in jobs if job.job in gone[Kind.JOB])
    assert gone[Kind.CLIP] == set(CLIPS).difference(*(job.clips for job in kept))
    assert gone[Kind.PICTURE] == set(PICTURES) - {job.picture for job in kept}
    # Those that are past their time go. By size the oldest go, and no more than need be.
    ages = {job.job: NOW - job.ended_at for job in jobs if job.ended_at is not None}
    expired = {job for job, age in ages.items() if keep_s is not None and age >= keep_s}
    assert expired <= gone[Kind.JOB]
    beyond = gone[Kind.JOB] - expired
    if keep_bytes is None:
        assert not beyond
    else:
        stay = [job for job in kept if job.ended_at is not None]
        assert not stay or taken_up(found, jobs, stay) <= keep_bytes
        assert all(ages[job] >= max((ages[j.job] for j in stay), default=0) for job in beyond)
        if beyond:
            last = min(beyond, key=lambda job: (ages[job], -int(job.removeprefix("job-"))))
            more = [*stay, next(job for job in jobs if job.job == last)]
            assert taken_up(found, jobs, more) > keep_bytes
    assert sum(row.bytes for row in freed(items)) == sum(e.size for i in items for e in i.entries)


def taken_up(found: Inventory, jobs: list[Facts], ended: list[Facts]) -> int:
    """The bytes of ended jobs and of what they name, without what open jobs name."""
    sizes: dict[str, int] = defaultdict(int)
    for name, entries in (*found.clips.items(), *((n, [e]) for n, e in found.pictures.items())):
        sizes[name] = sum(entry.size for entry in entries)
    names = {name for job in ended for name in (*job.clips, job.picture)}
    names.difference_update(
        name for job in jobs if job.ended_at is None for name in (*job.clips, job.picture)
    )
    return sum(sizes[name] for name in names) + 10 * len(ended)
