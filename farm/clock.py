"""Time that no step of the wall clock moves: durations in a process, and the farm's own clock."""

import time
from pathlib import Path

from pydantic import BaseModel


def uptime() -> float:
    """Seconds since the boot, those asleep included; only ever forward."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot() -> str:
    """Names the boot that `uptime` counts from; empty where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


class Reading(BaseModel):
    """The farm's clock, as it was written down, beside the clocks it can be continued by."""

    farm: float
    wall: float  # seconds since 1970
    uptime: float
    boot: str


class FarmClock:
    """Seconds that go on through steps of the wall clock and restarts of the coordinator.

    It begins as the wall clock, which it then never asks again while it runs. After a restart it
    goes on from the last reading: by the uptime where the machine has not been booted since; else
    by the wall clock, but never backward.
    """

    def __init__(self) -> None:
        self._offset = time.time() - uptime()

    def now(self) -> float:
        """Seconds since 1970, about."""
        return uptime() + self._offset

    def read(self) -> Reading:
        """A reading to be written down."""
        return Reading(farm=self.now(), wall=time.time(), uptime=uptime(), boot=boot())

    def go_on(self, last: Reading) -> None:
        """Continue from a reading of the coordinator before this one."""
        same_boot = last.boot and last.boot == boot() and uptime() >= last.uptime
        away = uptime() - last.uptime if same_boot else max(0.0, time.time() - last.wall)
        self._offset = last.farm + away - uptime()
