"""Long runs of the whole farm: two soaks, and two versions that take turns on a store."""

import subprocess

import pytest

from tests.soak import soak
from tests.soak_disk import soak_on_small_disk
from tests.support.pages import ROOT
from tests.support.soaking import Run
from tests.upgrade import upgrade

pytestmark = [pytest.mark.slow, pytest.mark.ray]
EARLIER = "b264966"  # the commit that landed before jobs were deleted by age


def faults(run: Run) -> int:
    return sum(count for what, count in run.done.items() if what.startswith("faults"))


@pytest.mark.timeout(1500)
def test_nothing_is_lost_or_doubled_in_five_minutes_of_harm() -> None:
    run = soak(minutes=5)
    assert len(run.jobs) > 50
    assert faults(run) >= 10


@pytest.mark.timeout(1200)
def test_nothing_is_lost_or_doubled_on_a_disk_that_is_full_at_times() -> None:
    try:
        run = soak_on_small_disk(minutes=2)
    except PermissionError as error:
        pytest.skip(str(error))
    assert len(run.jobs) > 20
    assert faults(run) >= 4


@pytest.mark.timeout(900)
def test_two_versions_take_turns_on_a_store() -> None:
    there = ["git", "cat-file", "-e", f"{EARLIER}^{{commit}}"]
    if subprocess.run(there, cwd=ROOT, check=False, capture_output=True).returncode:
        pytest.skip(f"the history does not reach back to {EARLIER}")
    done = upgrade(EARLIER)
    assert done.jobs == 12
    assert all(done.open_at_ends)
