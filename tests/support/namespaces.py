"""Hosts with addresses of their own on one machine, made of Linux namespaces.

A host has its own network, processes, name, `/etc/hosts`, `/dev/shm` and `/tmp/ray`. The process
that calls `hosts` must itself be alone in such namespaces, in which `alone` starts a program: it
is the first host, and the switch that all others are connected to. When that program ends, the
kernel kills all processes of all hosts, and with them goes everything that they have mounted.
"""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.support.farm_jobs import wait_for

ROOT = Path(__file__).parents[2]
NETWORK = "198.18.0"  # reserved for tests of networks (RFC 2544)
HEAD = f"{NETWORK}.1"
# What is started is killed when the process that started it dies, however that dies.
UNSHARE = (
    *("setpriv", "--pdeathsig", "KILL", "unshare", "--fork", "--kill-child", "--mount-proc"),
    *("--net", "--pid", "--mount", "--uts", "--ipc"),
)
# A namespace's first process adopts the orphans, and a shell that waits reaps them.
FIRST = ("sh", "-c", '"$@"; exit $?', "first")
ASLEEP = ("sh", "-c", "while :; do sleep 3600; done")


@dataclass(frozen=True)
class Host:
    """A host that is connected to this one's switch."""

    name: str
    address: str
    port: str  # the switch's
    pid: int  # of its first process

    def command(self, *words: object) -> list[str]:
        """The command that runs another command on this host, in the project's folder."""
        enter = ["nsenter", f"--target={self.pid}", "--net", "--pid", "--mount", "--uts", "--ipc"]
        return [*enter, "env", f"--chdir={ROOT}", *map(str, words)]

    def cut(self) -> None:
        """Cut its connection: no packet arrives there or leaves, and nobody is told."""
        _run("ip", "link", "set", self.port, "down")

    def heal(self) -> None:
        _run("ip", "link", "set", self.port, "up")

    def runs(self, program: str) -> bool:
        """Whether a program with this name runs there."""
        space = _space(self.pid)
        return any(
            space == _space(process.pid) and process.name() == program
            for process in psutil.process_iter()
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        )


def why_not() -> str:
    """Why no hosts can be made here; empty if they can."""
    try:
        make = [*UNSHARE, "ip", "link", "add", "port", "type", "veth", "peer", "name", "end"]
        done = subprocess.run(make, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        return f"there is no {error.filename}"
    return done.stderr.strip()


def alone(*command: object) -> list[str]:
    """The command that runs another command as the first host, alone in its namespaces."""
    return [*UNSHARE, *FIRST, *map(str, command)]


@contextmanager
def hosts(*names: str) -> Iterator[list[Host]]:
    """Make this process's namespaces a host called `head` at HEAD, and connect others to it."""
    with tempfile.TemporaryDirectory() as folder:
        _run("ip", "link", "set", "lo", "up")
        _run("ip", "link", "add", "switch", "type", "bridge")
        _run("ip", "addr", "add", f"{HEAD}/24", "dev", "switch")
        _run("ip", "link", "set", "switch", "up")
        for command in _own("head", Path(folder)):
            _run(*command)
        started: list[subprocess.Popen[bytes]] = []
        try:
            yield [_add(name, n, Path(folder), started) for n, name in enumerate(names, 2)]
        finally:
            for process in started:
                process.kill()  # the first process of the namespace dies with it
                process.wait()


def _add(name: str, number: int, folder: Path, started: list[subprocess.Popen[bytes]]) -> Host:
    started.append(subprocess.Popen([*UNSHARE, *ASLEEP]))
    unshare = psutil.Process(started[-1].pid)
    first = wait_for(lambda: [p for p in unshare.children() if p.name() == "sh"])[0]
    host = Host(name, f"{NETWORK}.{number}", f"port{number}", first.pid)
    end = ("peer", "name", "eth0", "netns", first.pid)
    _run("ip", "link", "add", host.port, "type", "veth", *end)
    _run("ip", "link", "set", host.port, "master", "switch", "up")
    for command in (
        ("ip", "link", "set", "lo", "up"),
        ("ip", "addr", "add", f"{host.address}/24", "dev", "eth0"),
        ("ip", "link", "set", "eth0", "up"),
        *_own(name, folder),
    ):
        _run(*host.command(*command))
    return host


def _own(name: str, folder: Path) -> list[tuple[object, ...]]:
    """What gives a host a name, and mounts of its own."""
    # Debian writes a host's own name like this, and many programs ask for their own address by it.
    (folder / name).write_text(f"127.0.0.1 localhost\n127.0.1.1 {name}\n")
    Path("/tmp/ray").mkdir(exist_ok=True)
    return [
        ("hostname", name),
        ("mount", "--bind", folder / name, "/etc/hosts"),
        ("mount", "-t", "tmpfs", "tmpfs", "/tmp/ray"),
        ("mount", "-t", "tmpfs", "tmpfs", "/dev/shm"),
    ]


def _space(pid: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/ns/pid").readlink())
    except OSError:
        return ""


def _run(*words: object) -> None:
    subprocess.run([*map(str, words)], check=True)
