"""A wall clock that jumps, for the processes that a test starts, but not for the test itself."""

import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.wall_clock.sitecustomize import FORMAT

FOLDER = Path(__file__).parent / "wall_clock"


class JumpingClock:
    """The wall clock of the processes that were started inside `jumping_clock`."""

    def __init__(self, file: Path) -> None:
        self._file = file
        file.write_bytes(struct.pack(FORMAT, 0.0))

    def jump(self, seconds: float) -> None:
        """Let the clock be wrong by some seconds; 0 sets it right."""
        with self._file.open("r+b") as file:  # in place: the processes have mapped the file
            file.write(struct.pack(FORMAT, seconds))


@contextmanager
def jumping_clock() -> Iterator[JumpingClock]:
    """A clock that all Python processes have which are started during the block."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        clock = JumpingClock(Path(folder, "wrong-by"))
        patch.setenv("WALL_CLOCK", str(clock._file))
        patch.setenv("PYTHONPATH", str(FOLDER), prepend=os.pathsep)
        yield clock
