"""Frames do not depend on how many workers there are (law 1)."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from farm.client import Farm
from tests.farm_jobs import expected_sha256, finish, open_farm, picture_bytes, submission
from tests.ray_cluster import local_cluster


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    with local_cluster(num_cpus=2):
        yield open_farm(tmp_path_factory.mktemp("store"), workers=3)


def test_frames_are_the_engine_frames_with_three_workers(farm: Farm, tiny: Path) -> None:
    picture = picture_bytes(3)
    job = farm.submit(submission(tiny, num_videos=4), picture).job.id
    view = finish(farm, job)[job]
    assert [r.sha256 for r in view.job.results] == expected_sha256(tiny, picture, view)
