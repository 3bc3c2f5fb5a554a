"""Programs that run beside a test, and whatever they start."""

import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]


@contextmanager
def running(
    command: Sequence[object], environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[str]]:
    """One that runs at the project's top; all that it has started ends with it."""
    process = subprocess.Popen(
        [*map(str, command)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        kill_family(process)
        assert process.stdout is not None
        process.stdout.close()


def kill_family(process: subprocess.Popen[Any]) -> None:
    """Kill it and all that it has started, as a power cut would."""
    with suppress(psutil.NoSuchProcess):
        own = psutil.Process(process.pid)
        family = [own, *own.children(recursive=True)]
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(family, timeout=30)
    process.wait()


def exit_status(main: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> int:
    """What the shell would be told by a command line that is run in this process."""
    try:
        return main(arguments)
    except SystemExit as end:
        return int(end.code or 0)
