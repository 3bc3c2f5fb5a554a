"""Workers that follow demand, with Ray's autoscaler and its fake nodes; and a node that leaves."""

from pathlib import Path

import pytest

from tests.elastic import measure

pytestmark = [pytest.mark.slow, pytest.mark.ray]


def test_nodes_come_and_go_with_the_work_and_nothing_is_lost(tmp_path: Path) -> None:
    measured = measure(tmp_path)
    assert measured.steps_lost == 0
    assert measured.same_frames
