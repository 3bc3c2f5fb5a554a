"""The soak's second run: a farm whose store is a folder, on a disk that is full at times.

Meanwhile workers and the coordinator are killed, the wall clock jumps an hour forth or back, and
garbage is collected, which a wrong clock must not mislead.
"""

import random
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from farm.errors import FarmError
from tests.support.farm_jobs import open_farm
from tests.support.jumping_clock import jumping_clock
from tests.support.ray_cluster import local_cluster
from tests.support.small_disk import SmallDisk, small_disk
from tests.support.soaking import (
    Run,
    all_together,
    check,
    do_harm,
    for_some_seconds,
    from_python,
    jump,
    kill_coordinator,
    kill_worker,
)

MEGABYTES = 64
DISK = ("full disk", "full disk", "killed on a full disk", "killed on a full disk")
FAULTS = (*DISK, *DISK, "clock", "clock", "worker", "coordinator")


def soak_on_small_disk(minutes: float) -> Run:
    """Run for some minutes, then check everything.

    Raises AssertionError, and PermissionError if this process may not mount a small disk.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        small_disk(Path(folder, "disk"), MEGABYTES) as disk,
        jumping_clock() as clock,
        local_cluster(),
    ):
        farm = open_farm(disk.folder / "store", max_jobs=500)
        farm.ready()
        until = time.monotonic() + 60 * minutes
        run = Run(farm, clock, until, random.Random(8))
        works = partial(from_python, run), partial(harm, run, disk), partial(collect, run)
        all_together(works, 60 * minutes)
        check(run)
        return run


def harm(run: Run, disk: SmallDisk) -> None:
    harms: dict[str, Callable[[], object]] = {
        "full disk": lambda: for_some_seconds(run, disk.fill, disk.empty),
        "killed on a full disk": lambda: kill_on_full_disk(run, disk),
        "clock": lambda: jump(run),
        "worker": lambda: kill_worker(run),
        "coordinator": lambda: kill_coordinator(run),
    }
    do_harm(run, harms, FAULTS)


def kill_on_full_disk(run: Run, disk: SmallDisk) -> None:
    """Kill the coordinator, so that the next one finds the disk full."""
    try:
        disk.fill()
        time.sleep(run.chance.uniform(0.5, 3))
        kill_coordinator(run)
        time.sleep(run.chance.uniform(1, 8))
    finally:
        disk.empty()


def collect(run: Run) -> None:
    """Collect garbage again and again."""
    while not run.over:
        with suppress(FarmError):
            run.farm.collect_garbage()
            run.done["garbage collected"] += 1
        time.sleep(run.chance.uniform(1, 5))
