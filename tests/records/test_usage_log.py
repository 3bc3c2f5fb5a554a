"""What tenants used, however many of their jobs were deleted, and wherever that was cut off."""

import math
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from farm.errors import StoreError
from farm.model.job import JobRecord, State
from farm.model.usage import COLUMNS, LAST_S, Usage, rows
from farm.records.salvage import read_job
from farm.records.usage_log import merge_deleted, note_deleted, read_usage
from farm.store.keys import job_key
from farm.store.local import LocalStore
from tests.model.test_job import job, result

DAY_S = 86_400
FIRST = date(1970, 1, 1)


def ended(at: float, tenant: str, state: State, paid: tuple[float, ...] = ()) -> JobRecord:
    """paid: what each of its clips took, 0 for one that was reused."""
    record = job().model_copy(update={"tenant": tenant, "state": state, "finished_at": at})
    results = tuple(result().model_copy(update={"gpu_seconds": seconds}) for seconds in paid)
    return record.model_copy(update={"results": results, "gpu_seconds": sum(paid)})


class FailingStore(LocalStore):
    """A store whose writes fail after a number of them."""

    left = 10**9

    def put(self, key: str, data: bytes, **conditions: object) -> str:
        self._spend()
        return super().put(key, data, **conditions)  # type: ignore[arg-type]

    def delete(self, key: str) -> None:
        self._spend()
        super().delete(key)

    def _spend(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise StoreError("cut off")


class Records:
    """A store of jobs that have ended."""

    def __init__(self, folder: Path, jobs: list[JobRecord]) -> None:
        self.store = FailingStore(folder)
        self.jobs = {
            f"job-{n}": each.model_copy(update={"id": f"job-{n}"}) for n, each in enumerate(jobs)
        }
        for name, each in self.jobs.items():
            self.store.put(job_key(name), each.model_dump_json().encode())

    def delete(self, name: str) -> None:
        if self.store.exists(job_key(name)):
            note_deleted(self.store, self.jobs[name])
            self.store.delete(job_key(name))

    def usage(self, since: date = FIRST) -> dict[tuple[date, str], Usage]:
        def read(name: str) -> JobRecord | None:
            found = read_job(self.store, name)
            return found[0] if found else None

        return read_usage(self.store, read, since)


def test_a_day_of_two_tenants(tmp_path: Path) -> None:
    noon = datetime(2026, 11, 28, 12, tzinfo=UTC).timestamp()
    jobs = [
        ended(noon, "acme", State.COMPLETED, (4.0, 0.0)),
        ended(noon, "acme", State.FAILED, (1.5,)),
        ended(noon, "other", State.CANCELLED),
        ended(noon + DAY_S, "acme", State.COMPLETED, (2.0,)),
        job(),  # open
    ]
    records = Records(tmp_path, jobs)
    table = [tuple(row.values()) for row in rows(records.usage())]
    assert table == [
        ("2026-11-28", "acme", 2, 1, 1, 0, 2, 1, 5.5),
        ("2026-11-28", "other", 1, 0, 0, 1, 0, 0, 0.0),
        ("2026-11-29", "acme", 1, 1, 0, 0, 1, 0, 2.0),
    ]
    assert [len(row) for row in table] == [len(COLUMNS)] * 3
    assert [*records.usage(date(2026, 11, 29))] == [(date(2026, 11, 29), "acme")]


def test_the_last_moment_of_all_calendars_is_in_one(tmp_path: Path) -> None:
    (found,) = Records(tmp_path, [ended(LAST_S - 1e-4, "acme", State.COMPLETED)]).usage()
    assert found == (date(9999, 12, 31), "acme")


@pytest.mark.parametrize(
    "at", [0.0, DAY_S - 0.001, -5.0, 1e30, math.inf]
)  # damage, or a clock gone mad
def test_days_are_those_of_utc(tmp_path: Path, at: float) -> None:
    assert [*Records(tmp_path, [ended(at, "acme", State.COMPLETED)]).usage()] == [(FIRST, "acme")]


def test_an_id_that_is_used_again_counts_again(tmp_path: Path) -> None:
    first = ended(1.0, "acme", State.COMPLETED, (1.0,))
    records = Records(tmp_path, [first])
    for end in (1.0, 2.0, 3.0):  # it was deleted, and submitted again
        records.jobs["job-0"] = records.jobs["job-0"].model_copy(update={"finished_at": end})
        records.store.put(job_key("job-0"), records.jobs["job-0"].model_dump_json().encode())
        records.delete("job-0")
    merge_deleted(records.store, FIRST + timedelta(1))
    assert records.usage()[FIRST, "acme"].gpu_seconds == 3.0


JOBS = st.lists(
    st.builds(
        ended,
        at=st.floats(0, 3 * DAY_S),
        tenant=st.sampled_from(["acme", "other"]),
        state=st.sampled_from([State.COMPLETED, State.FAILED, State.CANCELLED]),
        paid=st.lists(st.sampled_from([0.0, 0.25, 3.0]), max_size=3).map(tuple),
    ),
    max_size=8,
)
STEPS = st.lists(
    st.tuples(st.sampled_from(["delete", "merge"]), st.integers(0, 7), st.integers(0, 12)),
    max_size=8,
)


CUT_OFF = [("delete", 0, 1), ("merge", 1, 99), ("delete", 1, 99), ("merge", 1, 99)]


@settings(max_examples=60, deadline=None)
@example([ended(0.0, "acme", State.FAILED)] * 2, CUT_OFF, FIRST)
@given(JOBS, STEPS, st.dates(FIRST, FIRST + timedelta(4)))
def test_nothing_is_lost_or_counted_twice(
    jobs: list[JobRecord], steps: list[tuple[str, int, int]], since: date
) -> None:
    """steps: deletions and merges; each is cut off after some writes, and done again at last."""
    with TemporaryDirectory() as folder:
        records = Records(Path(folder), jobs)
        whole = records.usage()
        assert sum(used.jobs for used in whole.values()) == len(jobs)
        assert sum(used.gpu_seconds for used in whole.values()) == sum(j.gpu_seconds for j in jobs)
        for used in whole.values():
            assert used.jobs == used.completed + used.failed + used.cancelled
        for kind, number, writes in [*steps, *((kind, n, 99) for kind, n, _ in steps)]:
            records.store.left = writes
            with suppress(StoreError):
                if kind == "merge":
                    merge_deleted(records.store, FIRST + timedelta(number))
                elif number < len(jobs):
                    records.delete(f"job-{number}")
            records.store.left = 10**9
            assert records.usage() == whole
        assert records.usage(since) == {key: used for key, used in whole.items() if key[0] >= since}
