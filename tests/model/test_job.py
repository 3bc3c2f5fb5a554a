"""The table of job states and events; fences, times and deadlines."""

import itertools
import time

import pytest
from pydantic import ValidationError

from farm.errors import ConflictError, JobError
from farm.model.job import (
    ClipResult,
    Event,
    JobRecord,
    Progress,
    State,
    Submission,
    advance,
    new_job_id,
)
from farm.model.plan import Stage
from farm.model.request import Model
from farm.store.keys import artifact_keys
from tests.model.test_plan import request

# What becomes of a job; a dot where the event is refused.
TABLE = """
             start    pause   resume  cancel      stopped    complete   fail    recover
queued       running  paused  .       cancelling  .          completed  failed  queued
running      .        paused  .       cancelling  .          completed  failed  queued
paused       .        .       queued  cancelling  .          completed  failed  paused
cancelling   .        .       .       cancelling  cancelled  .          .       cancelled
completed    .        .       .       .           .          .          .       .
failed       .        .       .       .           .          .          .       .
cancelled    .        .       .       .           .          .          .       .
"""
_HEAD, *_ROWS = [line.split() for line in TABLE.strip().splitlines()]
EXPECTED = {(row[0], event): row[i] for row in _ROWS for i, event in enumerate(_HEAD, 1)}
PAIRS = list(itertools.product(State, Event))


def job(state: State = State.QUEUED, **changes: object) -> JobRecord:
    base = {"id": "job-1", "model": Model(), "request": request(), "created_at": 100.0}
    return JobRecord(**base | {"state": state} | changes)


def result(attempt: str = "1-1") -> ClipResult:
    """Of a clip that an attempt rendered."""
    video, thumbnail, sprites = artifact_keys(request().digest, attempt)
    return ClipResult(
        request=request(),
        sha256="0" * 64,
        video=video,
        thumbnail=thumbnail,
        sprite_sheet=sprites,
        seconds={},
        gpu_seconds=1.0,
        attempts=1,
        worker="renderer-0",
        fence=1,
        finished_at=1.0,
    )


def after(record: JobRecord, *events: Event, start: float = 200.0) -> JobRecord:
    """The job after events that are a second apart."""
    for number, event in enumerate(events):
        record = advance(record, event, start + number, fence=1)
    return record


def test_the_table_here_is_whole() -> None:
    assert set(EXPECTED) == set(PAIRS)


@pytest.mark.parametrize(("state", "event"), PAIRS)
def test_every_state_by_every_event(state: State, event: Event) -> None:
    before = job(state)
    expected = EXPECTED[state, event]
    if expected == ".":
        with pytest.raises(JobError, match=f"job-1 is {state}: it cannot {event}"):
            advance(before, event, 200.0, fence=1)
    else:
        assert advance(before, event, 200.0, fence=1).state == expected
    assert before == job(state)  # a job is a value


def test_what_is_open() -> None:
    closed = {state for state in State if not state.is_open}
    assert closed == {State.COMPLETED, State.FAILED, State.CANCELLED}


@pytest.mark.parametrize("state", [state for state in State if not state.is_open])
def test_what_is_closed_stays_so(state: State) -> None:
    assert all(EXPECTED[state, event] == "." for event in Event)


def test_a_later_coordinator_is_not_overruled() -> None:
    mine = advance(job(fence=3), Event.START, 200.0, fence=3)
    theirs = advance(mine, Event.RECOVER, 300.0, fence=4)
    assert (mine.fence, theirs.fence) == (3, 4)
    for event in Event:  # whatever the state says of it
        with pytest.raises(ConflictError, match="job-1 belongs to coordinator 4, this is 3"):
            advance(theirs, event, 301.0, fence=3)


def test_changes_go_along() -> None:
    failed = advance(job(), Event.FAIL, 200.0, fence=1, error="why", attempts=3)
    assert (failed.error, failed.attempts) == ("why", 3)
    started = advance(job(), Event.START, 200.0, fence=1, attempts=3)
    assert (started.started_at, started.attempts) == (200.0, 3)


def test_a_job_starts_once() -> None:
    record = job()
    assert record.started_at is None
    record = after(record, Event.START)
    assert record.started_at == 200.0
    record = after(record, Event.PAUSE, Event.RESUME, Event.START, start=300.0)
    record = after(record, Event.RECOVER, Event.START, Event.COMPLETE, start=400.0)
    assert (record.started_at, record.finished_at) == (200.0, 402.0)
    assert after(job(), Event.START, Event.RECOVER, Event.START, start=0.0).started_at == 0.0


@pytest.mark.parametrize(("state", "event"), [p for p in PAIRS if EXPECTED[p] != "."])
def test_a_job_is_finished_where_it_is_closed(state: State, event: Event) -> None:
    record = advance(job(state), event, 200.0, fence=1)
    assert record.finished_at == (None if record.state.is_open else 200.0)


def test_deadlines() -> None:
    assert job().due() is None
    by_the_farms_clock = job(created_on=500.0, start_within_s=10)
    assert by_the_farms_clock.due() == (510.0, "not started within 10 s")
    assert job(start_within_s=10).due() == (110.0, "not started within 10 s")
    assert job(finish_within_s=60.5).due() == (160.5, "not finished within 60.5 s")
    both = job(start_within_s=10, finish_within_s=60)
    assert both.due() == (110.0, "not started within 10 s")
    assert after(both, Event.START).due() == (160.0, "not finished within 60 s")
    assert (
        after(both, Event.START, Event.PAUSE, Event.RESUME).due()
        == both.model_copy(update={"start_within_s": None}).due()
    )  # it has started, though it is in the queue again
    assert job(start_within_s=90, finish_within_s=60).due() == (160.0, "not finished within 60 s")


@pytest.mark.parametrize(
    "wrong",
    [
        {"priority": 101},
        {"priority": -1},
        {"id": "a/b"},
        {"id": ""},
        {"tenant": "a b"},
        {"start_within_s": 0},
        {"finish_within_s": -1},
        {"num_videos": 0},
        {"colour": "red"},
    ],
)
def test_what_cannot_be_submitted(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        Submission(**wrong)


def test_a_submission_needs_nothing() -> None:
    first, other = Submission(), Submission()
    assert first.id != other.id
    assert (first.tenant, first.priority, first.num_videos, first.force) == (
        "default",
        50,
        1,
        False,
    )


def test_ids_are_unique_and_sort_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len({new_job_id() for _ in range(2000)}) == 2000
    moments = [0.0, 1.5, 1.7e9, 1.7e9 + 0.002, time.time(), 4e9, 1.7e10]
    ids = []
    for moment in moments:
        monkeypatch.setattr(time, "time", lambda moment=moment: moment)
        ids.append(new_job_id())
    assert ids == sorted(ids)
    assert {len(name) for name in ids} == {25}
    assert job(id=ids[-1]).id == ids[-1]
    assert ids[2].startswith("job-18bcfe56800")  # milliseconds, as in ids that were made before


def test_progress_counts_steps_and_chunks_of_all_clips() -> None:
    """Of three clips with five steps and seven frames in chunks of three, one is done."""
    asked = request(num_videos=3, num_inference_steps=5, num_frames=7, decode_chunk_size=3)
    record = job(request=asked, results=(result(),))
    progress = Progress.of(record, step=4, chunk=1, stage=Stage.DECODE)
    assert (progress.step, progress.steps, progress.chunk, progress.chunks) == (9, 15, 4, 9)
    assert progress.stage is Stage.DECODE
    assert progress.fraction == 13 / 24
    begun = Progress.of(job(request=asked))
    assert (begun.step, begun.steps, begun.chunk, begun.chunks, begun.fraction) == (0, 15, 0, 9, 0)
    whole = Progress.of(job(request=request(num_frames=7, decode_chunk_size=None)))
    assert (whole.chunk, whole.chunks) == (0, 1)


def test_a_job_misses_the_clips_that_it_has_no_results_of() -> None:
    asked = request(num_videos=3)
    first, second, third = asked.clips()
    assert job(request=asked).missing_clips() == (first, second, third)
    of_earlier_numerics = second.model_copy(update={"numerics": second.numerics - 1})
    there = result().model_copy(update={"request": of_earlier_numerics})
    assert job(request=asked, results=(there,)).missing_clips() == (first, third)


def test_a_result_is_free_for_a_job_that_did_not_render_it() -> None:
    paid = result().model_copy(update={"seconds": {Stage.DENOISE: 1.0}})
    assert paid.paid_for
    free = paid.free_of_charge()
    assert not free.paid_for
    assert free == paid.model_copy(update={"gpu_seconds": 0.0, "seconds": {}})


def test_a_result_names_each_of_its_files() -> None:
    made = result()
    assert made.key("video") == made.video
    assert made.key("thumbnail") == made.thumbnail
    assert made.key("spritesheet") == made.sprite_sheet
    names = {made.video, made.thumbnail, made.sprite_sheet}
    assert len(names) == 3
    assert made.artifact_keys() == names
