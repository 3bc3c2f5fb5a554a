"""The table of open jobs, and what it counts and finds beside them."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from farm.model.job import JobRecord
from farm.records.open_jobs import OpenJobs
from tests.model.test_job import job
from tests.model.test_plan import A, B, request

CHANGES = st.lists(
    st.tuples(
        st.sampled_from("xyz"),
        st.sampled_from([A, B]),
        st.sampled_from(["one", "two"]),
        st.booleans(),
    )
)


@given(CHANGES)
def test_after_any_changes_what_is_counted_and_found_is_what_is_there(
    changes: list[tuple[str, str, str, bool]],
) -> None:
    table, there = OpenJobs(), dict[str, JobRecord]()
    for name, picture, tenant, stays in changes:
        if stays:
            there[name] = table[name] = job(
                id=name, tenant=tenant, request=request(picture=picture)
            )
        elif name in there:
            del there[name], table[name]
    for picture in (A, B):
        of_picture = {each.id for each in there.values() if each.request.picture == picture}
        assert {each.id for each in table.of_picture(picture)} == of_picture
    counts = Counter(each.tenant for each in there.values())
    assert {tenant: tally.jobs for tenant, tally in table.tallies.items()} == counts
