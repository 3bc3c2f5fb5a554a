"""A Debian file system in a folder, in which commands run as they would in a container.

Each command has mounts, processes and, if asked for, a network of its own. These end with the
command, so nothing has to be unmounted afterwards.
"""

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import psutil

from tests.support.farm_jobs import wait_for

RELEASE = "bookworm"
PACKAGES = "python3,python3-venv,ca-certificates"
# What Docker's official images of Python set.
BASE_PATH = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
OF_PACKAGES = r"(PIP|UV)_\w+|\w*(CERT|CA_BUNDLE)\w*|\w+_proxy|\w+_PROXY"
CONFIGURATION = (
    *("/etc/resolv.conf", "/etc/pip.conf", "/etc/xdg/pip", "/etc/ssl/certs/ca-certificates.crt"),
)
EMPTY: Mapping[str, str] = MappingProxyType({})
AT_HOME = (".config/pip", ".pip")


def why_not() -> str:
    """Why there can be no such root here; empty if there can."""
    if os.geteuid() != 0:
        return "a root file system takes root"
    missing = [name for name in ("debootstrap", "unshare", "chroot") if not shutil.which(name)]
    return f"not installed: apt-get install {' '.join(missing)}" if missing else ""


def bootstrap(folder: Path) -> None:
    """Make a Debian with its Python, as Docker's official image of Python has one."""
    subprocess.run(
        ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", RELEASE, folder],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    # A container gets these names from Docker.
    (folder / "etc/hosts").write_text(f"127.0.0.1 localhost\n127.0.0.1 {socket.gethostname()}\n")
    for name in ("python", "python3"):
        (folder / "usr/local/bin" / name).symlink_to("/usr/bin/python3")


@dataclass
class DebianRoot:
    """A root, and what the instructions of a Dockerfile have set for the commands in it."""

    folder: Path
    env: dict[str, str] = field(default_factory=lambda: {"PATH": BASE_PATH})
    workdir: str = "/"
    user: str = "0"

    def run(
        self,
        command: Sequence[object],
        environment: Mapping[str, str] = EMPTY,
        shared: Sequence[Path] = (),
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as the image's user. shared: the machine's folders that are lent to it."""
        return subprocess.run(
            self._command(command, environment, shared),
            capture_output=True,
            text=True,
            check=False,
        )

    @contextmanager
    def started(
        self, command: Sequence[object], writable: Sequence[str]
    ) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
        """Run a command without a network, and with only some folders that can be written to.

        Yields a function that runs another command beside it. In the end both are killed.
        """
        process = subprocess.Popen(
            self._command(command, writable=writable),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            family = psutil.Process(process.pid)
            first = wait_for(lambda: [p for p in family.children() if p.cwd() == self._cwd])[0]
            beside = ["nsenter", f"--target={first.pid}", "--mount", "--net", "--pid"]

            def run(*words: object) -> subprocess.CompletedProcess[str]:
                entered = [*beside, *self._enter(words)]
                return subprocess.run(entered, capture_output=True, text=True, check=False)

            yield run
        finally:
            process.kill()
            process.wait()

    @property
    def _cwd(self) -> str:
        """The working directory of the image's processes, as this machine names it."""
        return f"{self.folder}{self.workdir}"

    def _enter(
        self, command: Sequence[object], environment: Mapping[str, str] = EMPTY
    ) -> list[str]:
        """The command that runs another one in the root, as the image's user."""
        variables = [f"{name}={value}" for name, value in {**environment, **self.env}.items()]
        inner = f"cd {shlex.quote(self.workdir)} && exec {shlex.join(map(str, command))}"
        enter = ["chroot", f"--userspec={self.user}:{self.user}", "--groups=", str(self.folder)]
        return [*enter, "env", "-i", *variables, "sh", "-c", inner]

    def _command(
        self,
        command: Sequence[object],
        environment: Mapping[str, str] = EMPTY,
        shared: Sequence[Path] = (),
        writable: Sequence[str] = (),
    ) -> list[str]:
        """The command that makes the mounts, and runs another one among them."""
        root = shlex.quote(str(self.folder))
        lines = ["set -e", f"mount --bind {root} {root}", f"mount -t proc proc {root}/proc"]
        lines += [f"mount --rbind /dev {root}/dev"]
        for path in shared:
            (self.folder / path.relative_to("/")).mkdir(parents=True, exist_ok=True)
            lines.append(f"mount --bind {path} {root}{path}")
        if writable:
            lines += ["ip link set lo up", f"mount -o remount,bind,ro {root}"]
            lines += [f"mount -t tmpfs -o mode=1777 tmpfs {root}{path}" for path in writable]
        lines.append(f"exec {shlex.join(self._enter(command, environment))}")
        apart = ["--net"] if writable else []
        unshare = ["unshare", "--mount", "--pid", *apart, "--fork", "--kill-child"]
        return ["setpriv", "--pdeathsig", "KILL", *unshare, "sh", "-c", "\n".join(lines)]


def package_environment() -> dict[str, str]:
    """This machine's variables about where packages come from."""
    return {n: v for n, v in os.environ.items() if re.fullmatch(OF_PACKAGES, n)} | {"HOME": "/root"}


def lend_packages(root: DebianRoot) -> list[Path]:
    """Copy this machine's configuration of pip, certificates and names into a root.

    Returns the local folders that it names as sources of packages.
    """
    home = Path.home()
    copies = {Path(path): path for path in CONFIGURATION}
    copies |= {home / path: f"/root/{path}" for path in AT_HOME}
    named = _named_paths()
    copies |= {path: str(path) for path in named if path.is_file()}
    for path, inside in copies.items():
        target = root.folder / inside.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, target, dirs_exist_ok=True)
        elif path.is_file():
            shutil.copyfile(path, target)
    folders = {path for path in named if path.is_dir()}
    # The pages of a local index have links to files beside them.
    return sorted({Path(*path.parts[:2]) for path in folders})


def _named_paths() -> set[Path]:
    """The files and folders that this machine's configuration of pip names."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {Path(path) for path in re.findall(r"(?:file://)?(/[\w./-]+)", listed)}
    return {path for path in found if path.is_absolute() and path.exists()}
