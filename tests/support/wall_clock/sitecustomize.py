"""Every Python that starts with this folder on its PYTHONPATH imports this: its wall clock jumps.

The file that WALL_CLOCK names holds how many seconds `time.time` is wrong by. The system's clock
cannot be set for some processes alone. libfaketime cannot do it either: with the monotonic clock
left alone, Python's `time.sleep` fails under its version 0.9.10, and Ray's C++ parts wait in the
kernel until an absolute time, which no library that is loaded before them can move.
"""

import mmap
import os
import struct
import time
from pathlib import Path

FORMAT = "d"


def jump() -> None:
    """Replace `time.time` by a clock that follows the file."""
    true = time.time
    with Path(os.environ["WALL_CLOCK"]).open("rb") as file:
        wrong_by = mmap.mmap(file.fileno(), struct.calcsize(FORMAT), prot=mmap.PROT_READ)

    def now() -> float:
        return true() + float(struct.unpack(FORMAT, wrong_by)[0])

    vars(time)["time"] = now


if "WALL_CLOCK" in os.environ:
    jump()
