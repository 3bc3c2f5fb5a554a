"""Decodes a clip in several processes, each with a slice, connected by torch.distributed.

They use gloo on CPUs and NCCL on GPUs. Every exchange has a time limit, so a process that is gone
becomes an error in all others, and never an endless wait.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from svd_engine.exact import decode_slices
from svd_engine.vae import VAE

LOOK_S = 1.0  # the longest that one attempt to reach rank 0 takes
PAUSE_S = 0.05  # between two checks for the others


class GangError(RuntimeError):
    """Another process that shares a decode is gone or too late."""


class Gang:
    """A seam between processes. The frames of rank r come before those of rank r + 1."""

    def __init__(self, rank: int, size: int, frames: int, limit: timedelta) -> None:
        """frames: of the whole clip. limit: the time limit of each exchange."""
        self.rank, self.size = rank, size
        self.share = share_of(frames, rank, size)
        self.bytes = 0  # sent to others
        self._frames, self._limit = frames, limit

    def edges(self, first: Tensor, last: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """See `exact.Seam`. Raises GangError."""
        before = first.new_empty(first.shape) if self.rank > 0 else None
        after = last.new_empty(last.shape) if self.rank < self.size - 1 else None
        exchanges = []
        for neighbour, sent, received in (
            (self.rank - 1, first, before),
            (self.rank + 1, last, after),
        ):
            if received is not None:
                exchanges.append(dist.P2POp(dist.isend, sent.contiguous(), neighbour))
                exchanges.append(dist.P2POp(dist.irecv, received, neighbour))
                self.bytes += sent.nbytes
        with _faults():
            for work in dist.batch_isend_irecv(exchanges) if exchanges else ():
                work.wait(self._limit)
        return before, after

    def sum(self, statistics: Tensor) -> Tensor:
        """See `exact.Seam`. Raises GangError.

        It sums frame by frame, so the result does not depend on the number of processes.
        """
        of_frames = statistics.new_zeros(self._frames, *statistics.shape[1:])
        of_frames[slice(*self.share)] = statistics
        self.bytes += of_frames.nbytes
        with _faults():
            dist.all_reduce(of_frames, async_op=True).wait(self._limit)
        return of_frames.sum(dim=0)


class Meeting:
    """The rendezvous of a gang's processes, at the address host:port of rank 0."""

    def __init__(self, rank: int, size: int, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._rank, self._size, self._where = rank, size, (host, int(port))
        self._store: Any = None  # a TCPStore, once rank 0 can be reached

    def complete(self) -> bool:
        """Whether all processes have arrived. Each check takes a moment, and may be repeated."""
        if self._store is None:
            first = self._rank == 0
            try:
                self._store = dist.TCPStore(  # type: ignore[attr-defined]
                    *self._where,
                    is_master=first,
                    timeout=timedelta(seconds=LOOK_S),
                    wait_for_workers=False,
                )
            except (RuntimeError, ValueError) as error:
                if first:
                    raise GangError(f"no gang can meet at {self._where}: {error}") from error
                return False  # rank 0 cannot be reached yet
            self._store.add("here", 1)
        with _faults():
            return self._store.add("here", 0) == self._size

    def wait(self, limit_s: float) -> Iterator[None]:
        """Yield between checks until all processes have arrived. Raises GangError at the limit."""
        until = time.monotonic() + limit_s
        while not self.complete():
            if time.monotonic() > until:
                raise GangError(f"the decode's other processes did not come within {limit_s:g} s")
            yield
            time.sleep(PAUSE_S)

    @contextmanager
    def join(self, frames: int, device: torch.device, limit_s: float) -> Iterator[Gang]:
        """Form the gang for a clip, once all have arrived. Raises GangError.

        limit_s: the time limit of each exchange.
        """
        limit, on_gpu = timedelta(seconds=limit_s), device.type == "cuda"
        with _faults():
            dist.init_process_group(
                "nccl" if on_gpu else "gloo",
                store=self._store,
                rank=self._rank,
                world_size=self._size,
                timeout=limit,
                device_id=torch.cuda.current_device() if on_gpu else None,
            )
        try:
            yield Gang(self._rank, self._size, frames, limit)
        finally:
            dist.destroy_process_group()


@contextmanager
def join_gang(
    rank: int, size: int, frames: int, address: str, device: torch.device, limit_s: float
) -> Iterator[Gang]:
    """Wait for all processes, and join them. Raises GangError.

    limit_s: the time limit of the wait, and of each exchange.
    """
    meeting = Meeting(rank, size, address)
    for _ in meeting.wait(limit_s):
        pass
    with meeting.join(frames, device, limit_s) as gang:
        yield gang


@contextmanager
def _faults() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError) as error:  # torch's errors are RuntimeErrors
        raise GangError(f"the decode's other processes are gone or too late: {error}") from error


def share_of(frames: int, rank: int, size: int) -> tuple[int, int]:
    """The frames of a rank: the first, and one after the last. Shares differ by at most one."""
    whole, rest = divmod(frames, size)
    start = rank * whole + min(rank, rest)
    return start, start + whole + (rank < rest)


def decode_share(vae: VAE, latents: Tensor, gang: Gang) -> Tensor:
    """Decode a process's share of unscaled latents (F, C, h, w) to frames (n, 3, H, W) in [-1, 1].

    Each process gets all latents, because they are small. Raises GangError.
    """
    return decode_slices(vae, latents[slice(*gang.share)], seam=gang)
