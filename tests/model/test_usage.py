"""What tenants used, from records of jobs in any order."""

from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.model.job import JobRecord, State
from farm.model.usage import COLUMNS, rows, usage_by_day
from tests.model.test_job import job, result

DAY_S = 86_400


def ended(at: float, tenant: str, state: State, paid: tuple[float, ...] = ()) -> JobRecord:
    """paid: what each of its clips took, 0 for one that was reused."""
    record = job().model_copy(update={"tenant": tenant, "state": state, "finished_at": at})
    results = tuple(result().model_copy(update={"gpu_seconds": seconds}) for seconds in paid)
    return record.model_copy(update={"results": results, "gpu_seconds": sum(paid)})


def test_a_day_of_two_tenants() -> None:
    noon = datetime(2026, 11, 28, 12, tzinfo=UTC).timestamp()
    jobs = [
        ended(noon, "acme", State.COMPLETED, (4.0, 0.0)),
        ended(noon, "acme", State.FAILED, (1.5,)),
        ended(noon, "other", State.CANCELLED),
        ended(noon + DAY_S, "acme", State.COMPLETED, (2.0,)),
        job(),  # open
    ]
    table = [tuple(row.values()) for row in rows(usage_by_day(reversed(jobs)))]
    assert table == [
        ("2026-11-28", "acme", 2, 1, 1, 0, 2, 1, 5.5),
        ("2026-11-28", "other", 1, 0, 0, 1, 0, 0, 0.0),
        ("2026-11-29", "acme", 1, 1, 0, 0, 1, 0, 2.0),
    ]
    assert [len(row) for row in table] == [len(COLUMNS)] * 3
    assert [*usage_by_day(jobs, date(2026, 11, 29))] == [(date(2026, 11, 29), "acme")]


@pytest.mark.parametrize("at", [0.0, DAY_S - 0.001])
def test_days_are_those_of_utc(at: float) -> None:
    assert [*usage_by_day([ended(at, "acme", State.COMPLETED)])] == [(date(1970, 1, 1), "acme")]


JOBS = st.lists(
    st.builds(
        ended,
        at=st.floats(0, 30 * DAY_S),
        tenant=st.sampled_from(["acme", "other"]),
        state=st.sampled_from([State.COMPLETED, State.FAILED, State.CANCELLED]),
        paid=st.lists(st.sampled_from([0.0, 0.25, 3.0]), max_size=3).map(tuple),
    ),
    max_size=20,
)


@given(JOBS, st.dates(date(1970, 1, 1), date(1970, 2, 5)))
def test_nothing_is_lost_or_counted_twice(jobs: list[JobRecord], since: date) -> None:
    whole, later = usage_by_day(jobs), usage_by_day(jobs, since)
    assert sum(used.jobs for used in whole.values()) == len(jobs)
    assert sum(used.gpu_seconds for used in whole.values()) == sum(j.gpu_seconds for j in jobs)
    clips = sum(used.clips_rendered + used.clips_reused for used in whole.values())
    assert clips == sum(len(j.results) for j in jobs)
    for used in whole.values():
        assert used.jobs == used.completed + used.failed + used.cancelled
    assert later == {key: used for key, used in whole.items() if key[0] >= since}
    assert [*whole] == sorted(whole)
