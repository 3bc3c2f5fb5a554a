"""Time that no step of the wall clock moves."""

import time


def uptime() -> float:
    """Seconds since the boot, those asleep included; only ever forward."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class FarmClock:
    """Seconds since 1970, about: the wall clock is read once, and then only the uptime.

    A coordinator that is started anew reads the wall clock again.
    """

    def __init__(self) -> None:
        self._offset = time.time() - uptime()

    def now(self) -> float:
        """The time, which only ever goes forward, a second in each second."""
        return uptime() + self._offset
