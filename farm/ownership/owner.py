"""Which process owns a store, and whether that process is provably dead."""

import os
import socket
import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from farm.clock import boot

NAMESPACES = ("pid", "time")  # what a pid means, and what its start is counted from
DEAD = ("Z", "X")  # states in /proc of a process that runs no more


class Owner(BaseModel):
    """A process, named so that no other can be taken for it."""

    model_config = ConfigDict(frozen=True)

    host: str  # for people: two process tables can bear one host name
    pid: int
    started: int  # clock ticks after the boot: pids are used again
    table: str  # the process table that knows the pid; empty where it cannot be told
    actor: str = ""  # Ray's id of the coordinator, the same after a restart by Ray
    address: str = ""  # of its Ray cluster
    since: float  # seconds since 1970 by its own clock, for people

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self.since))
        ray = f", Ray at {self.address}" if self.address else ""
        return f"process {self.pid} on {self.host}{ray}, since {since}"


def this_process(actor: str = "", address: str = "") -> Owner:
    """The owner that this process would be."""
    return Owner(
        host=socket.gethostname(),
        pid=os.getpid(),
        started=_started(os.getpid())[0],
        table=process_table(),
        actor=actor,
        address=address,
        since=time.time(),
    )


def process_table() -> str:
    """Name this process's table: the boot and the namespaces. Empty where it cannot be told."""
    try:
        # Where /proc is another namespace's, its pids are not ours.
        if int(str(Path("/proc/self").readlink())) != os.getpid():
            return ""
        spaces = [str(Path(f"/proc/self/ns/{name}").readlink()) for name in NAMESPACES]
    except (OSError, ValueError):
        return ""
    return " ".join([boot(), *spaces]) if boot() else ""


def is_dead(owner: Owner) -> bool:
    """Whether the process is provably gone: it was in this table, and is there no more."""
    if not owner.table or owner.table != process_table():
        return False
    try:
        os.kill(owner.pid, 0)  # unlike /proc, it hides no process of others
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    started, state = _started(owner.pid)
    return state in DEAD or bool(started and owner.started and started != owner.started)


def _started(pid: int) -> tuple[int, str]:
    """When a process began, in clock ticks after the boot, and its state; 0 where unknown."""
    try:
        # Its name, in parentheses, can hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[19]), fields[0]
    except (OSError, ValueError, IndexError):
        return 0, ""
