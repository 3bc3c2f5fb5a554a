"""The clock of the soak: it jumps in other processes, and durations there stay right."""

import subprocess
import sys
import time

from tests.support.jumping_clock import jumping_clock

PROGRAM = """
import time
from farm.clock import FarmClock
clock = FarmClock()
for line in iter(input, "end"):
    print(time.time(), clock.wall(), clock.now(), time.monotonic(), flush=True)
"""


def test_the_wall_clock_of_others_jumps() -> None:
    with jumping_clock() as clock:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with process:
            assert process.stdin is not None
            assert process.stdout is not None
            for wrong_by in (0.0, 3600.0, -3600.0):
                clock.jump(wrong_by)
                print("now", file=process.stdin, flush=True)
                bare, wall, now, monotonic = map(float, process.stdout.readline().split())
                for shown in (bare - wrong_by, wall - wrong_by, now):
                    assert abs(shown - time.time()) < 600
                assert abs(monotonic - time.monotonic()) < 600
            print("end", file=process.stdin, flush=True)
