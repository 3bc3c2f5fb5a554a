"""Three hosts with addresses of their own, one of which is cut off while it renders."""

import pytest

from tests.partition import measure
from tests.support.namespaces import why_not


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_host_that_is_cut_off_and_comes_back() -> None:
    """`measure` checks that every clip is complete once, with the frames of `engine.render`."""
    if reason := why_not():
        pytest.skip(f"no network namespaces can be made: {reason}")
    measured = measure()
    assert measured.kept  # after a short cut
    assert not measured.brief_retries
    assert measured.logged  # after the long one
