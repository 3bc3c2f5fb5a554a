"""Checks of this machine's memory, disks and shared memory."""

import os
import re
import shutil
import tempfile
from pathlib import Path

from farm.doctor.check import Context, Finding, Findings, Unchecked, ok, unknown, warning
from farm.store import folder_of

GB = 10**9
MEMORY_GB = 4.0  # for a worker with a small model and the coordinator
DISK_GB = 10.0  # a batch of clips, and Ray's logs
OBJECTS = 0.3  # the part of the memory that Ray gives to its object store
SHM = Path("/dev/shm")  # noqa: S108 - where Ray has its object store
_CGROUP = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def memory(_context: Context) -> Findings:
    """Whether there is memory for a worker, in this machine or container."""
    free = _available()
    limit = _container_limit()
    there = f"{free / GB:.1f} GB of memory are available"
    there += f", and the container may use {limit / GB:.1f} GB" if limit else ""
    if min(free, limit or free) < MEMORY_GB * GB:
        yield warning(
            f"Only {there}.",
            "Give the machine or the container more memory, or end other programs: svd-xt takes "
            "10 to 20 GB while it is loaded.",
        )
        return
    yield ok(f"{there}.")


def disk(context: Context) -> Findings:
    """Whether the disks of the store, of temporary files and of models have room."""
    places = {"temporary files and Ray's logs": Path(tempfile.gettempdir())}
    places["downloaded models"] = _cache()
    if context.settings is not None and (folder := folder_of(context.settings.store)):
        places["the store"] = folder
    for what, place in places.items():
        yield _room(what, place)


def shared_memory(_context: Context) -> Findings:
    """Whether /dev/shm holds Ray's object store, which otherwise lies on a slow disk."""
    if not SHM.exists():
        raise Unchecked(f"There is no {SHM} on this system.")
    size, wanted = shutil.disk_usage(SHM).total, OBJECTS * (_container_limit() or _installed())
    if size < wanted:
        yield warning(
            f"{SHM} has {size / GB:.1f} GB, and Ray's object store takes {wanted / GB:.1f} GB: "
            "Ray will keep it on the disk below /tmp, which is slow.",
            f"Give a container more, as with docker run --shm-size={wanted / GB:.0f}g, or in "
            f"Kubernetes with an emptyDir of medium Memory at {SHM}.",
        )
        return
    yield ok(f"{SHM} has {size / GB:.1f} GB, which suffices for Ray's object store.")


def existing(place: Path) -> Path:
    """A path, or the nearest folder above it that exists."""
    return next(path for path in (place, *place.parents) if path.exists())


def _room(what: str, place: Path) -> Finding:
    there = existing(place)
    try:
        free = shutil.disk_usage(there).free
    except OSError as error:
        return unknown(f"The disk of {there}, for {what}, was not checked: {error.strerror}.")
    text = f"{free / GB:.1f} GB are free at {there}, for {what}."
    if free < DISK_GB * GB:
        return warning(f"Only {text}", "Make room there, or use another disk.")
    return ok(text)


def _cache() -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def _available() -> int:
    found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    if found is None:
        raise Unchecked("The system does not tell how much memory is available.")
    return int(found[1]) * 1024


def _installed() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _container_limit() -> int | None:
    """The container's limit of memory; None if there is none."""
    for name in _CGROUP:
        try:
            text = Path(name).read_text().strip()
        except OSError:
            continue
        if text.isdecimal() and int(text) < _installed():
            return int(text)
    return None
