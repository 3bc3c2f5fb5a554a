"""Clocks that adjustments of the wall clock do not affect: the uptime, and the farm's own clock."""

import time
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel


def uptime() -> float:
    """Seconds since the boot, including time asleep; it never goes backward."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def utc_day(seconds: float) -> date:
    """The day, in UTC, of a time in seconds since 1970."""
    return datetime.fromtimestamp(seconds, UTC).date()


def boot() -> str:
    """The id of the boot that `uptime` counts from; empty if the system provides none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


class Clock(Protocol):
    """The time, as the coordinator reads it; tests set their own."""

    def now(self) -> float:
        """Seconds since 1970, approximately; never backward, even over restarts. For deadlines."""

    def wall(self) -> float:
        """Seconds since 1970 by the wall clock, which can be adjusted. For people to read."""

    def monotonic(self) -> float:
        """Seconds since some start, without time asleep. For durations."""


class Reading(BaseModel):
    """A stored reading of the farm's clock, and of the clocks from which it can be continued."""

    farm: float
    wall: float  # seconds since 1970
    uptime: float
    boot: str


class FarmClock:
    """A clock that continues through adjustments of the wall clock and restarts of the coordinator.

    It starts at the wall clock's time, and then advances with the uptime. After a restart it
    continues from the last stored reading: by the uptime if the machine has not been booted since,
    and otherwise by the wall clock, but never backward.
    """

    def __init__(self) -> None:
        self._offset = time.time() - uptime()

    def now(self) -> float:
        """Seconds since 1970, approximately."""
        return uptime() + self._offset

    def wall(self) -> float:
        """Seconds since 1970 by the wall clock."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since some start, without time asleep."""
        return time.monotonic()

    def read(self) -> Reading:
        """A reading to store, from which a later coordinator can continue."""
        return Reading(farm=self.now(), wall=time.time(), uptime=uptime(), boot=boot())

    def go_on(self, last: Reading) -> None:
        """Continue from a reading that an earlier coordinator stored."""
        same_boot = last.boot and last.boot == boot() and uptime() >= last.uptime
        away = uptime() - last.uptime if same_boot else max(0.0, time.time() - last.wall)
        self._offset = last.farm + away - uptime()
