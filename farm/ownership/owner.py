"""The identity of a process that owns a store, and a check for whether the process is dead."""

import os
import socket
import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from farm.clock import boot

NAMESPACES = ("pid", "time")  # they determine a process's pid and the time of its start in /proc
DEAD = ("Z", "X")  # the states in /proc of a process that has ended


class Owner(BaseModel):
    """A process, described so that no other process can be mistaken for it."""

    model_config = ConfigDict(frozen=True)

    host: str  # only for messages: containers with separate process tables may share a host name
    pid: int
    started: int  # in clock ticks after the boot, because pids are reused
    table: str  # the process table that the pid belongs to (`process_table`); empty if unknown
    actor: str = (
        ""  # Ray's id of the coordinator's actor, which stays the same when Ray restarts it
    )
    address: str = ""  # the address of its Ray cluster
    since: float  # seconds since 1970 by its own clock, only for messages

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self.since))
        ray = f", Ray at {self.address}" if self.address else ""
        return f"process {self.pid} on {self.host}{ray}, since {since}"


def this_process(actor: str = "", address: str = "") -> Owner:
    """Describe this process as an owner."""
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
    """Identify this process's table by the boot and the namespaces; empty if it is unknown."""
    try:
        # If /proc belongs to another namespace, its pids mean other processes.
        if int(str(Path("/proc/self").readlink())) != os.getpid():
            return ""
        spaces = [str(Path(f"/proc/self/ns/{name}").readlink()) for name in NAMESPACES]
    except (OSError, ValueError):
        return ""
    return " ".join([boot(), *spaces]) if boot() else ""


def is_dead(owner: Owner) -> bool:
    """Whether the process is certainly gone: it was in this process's table, and no longer is."""
    if not owner.table or owner.table != process_table():
        return False
    try:
        os.kill(owner.pid, 0)  # unlike /proc, it also finds processes of other users
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    started, state = _started(owner.pid)
    return state in DEAD or bool(started and owner.started and started != owner.started)


def _started(pid: int) -> tuple[int, str]:
    """When a process began, in clock ticks after the boot, and its state; (0, "") if unknown."""
    try:
        # The process's name comes first, in parentheses, and may contain any character.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[19]), fields[0]
    except (OSError, ValueError, IndexError):
        return 0, ""
