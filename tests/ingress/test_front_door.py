"""The limits on what `python -m tests.front_door` measures."""

from collections.abc import Iterator

import pytest

from tests.front_door import ATTACKS, STREAMS, Door, front_door, hold_streams

pytestmark = pytest.mark.slow
STALLED_S = 2.0  # it was 2 to 4; 0.1 is usual


@pytest.fixture(scope="module")
def door() -> Iterator[Door]:
    with front_door() as opened:
        yield opened


def test_long_bodies_leave_the_event_loop_to_others(door: Door) -> None:
    stalled = door.stall(ATTACKS["four JSON bodies of 60 MB, each a data URL"]())
    assert stalled.statuses == [200] * 4
    assert stalled.loop_s < STALLED_S


def test_thousands_of_event_streams_of_one_caller(door: Door) -> None:
    held, _, _ = hold_streams(door, STREAMS)
    assert 100 <= held < STREAMS // 2
