"""Programs that run beside a test, and are killed with all processes that they have started."""

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
    """Run a program in the project's folder, and kill it and its descendants at the end."""
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
    """Kill a process and its descendants at once, as a power cut would."""
    with suppress(psutil.NoSuchProcess):
        own = psutil.Process(process.pid)
        family = [own, *own.children(recursive=True)]
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(family, timeout=30)
    process.wait()


def running_children(*names: str) -> list[psutil.Process]:
    """This process's descendants whose command line begins with one of the names.

    Those that have ended, but are not reaped yet, are left out.
    """
    children = psutil.Process().children(recursive=True)
    alive = [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in alive if " ".join(child.cmdline()).startswith(names)]


def exit_status(main: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> int:
    """The exit status of a command line's `main`, run in this process."""
    try:
        return main(arguments)
    except SystemExit as end:
        return int(end.code or 0)
