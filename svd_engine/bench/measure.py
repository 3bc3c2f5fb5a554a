"""Measures the time, launches and memory traffic of a call, on a CPU or a GPU."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Call = Callable[[], Any]


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass
class Timer:
    """Times one call repeatedly.

    The first time is kept apart, because it includes compilation and allocation. It counts only if
    there is no other.
    """

    call: Call
    device: torch.device
    first: float = 0.0
    times: list[float] = field(default_factory=list)
    peak_bytes: int | None = None

    @torch.inference_mode()
    def run(self) -> None:
        """Time the call once more."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        start = time.perf_counter()
        self.call()
        synchronize(self.device)
        seconds = time.perf_counter() - start
        if self.device.type == "cuda":
            self.peak_bytes = torch.cuda.max_memory_allocated(self.device)
        if self.first:
            self.times.append(seconds)
        else:
            self.first = seconds

    @property
    def seconds(self) -> float:
        """The median of the times."""
        return statistics.median(self.times or [self.first])


def interleave(
    timers: list[Timer], rounds: int, until: float, expected: float | None = None
) -> None:
    """Run all timers in turn, in a first round and up to `rounds` more.

    Interleaving spreads the effect of other load evenly.
    until: no round begins that would end after this `time.monotonic`, if as long as the one before.
    expected: seconds that the second round should take. Default: half of the first, which compiles
    and allocates.
    """
    for number in range(rounds + 1):
        start = time.monotonic()
        for timer in timers:
            timer.run()
        now = time.monotonic()
        if number == 0:
            next_s = 0.5 * (now - start) if expected is None else expected
        else:
            next_s = now - start
        if now + next_s > until:
            return


class _Dispatched(TorchDispatchMode):
    """Counts operations that compute or copy, and the bytes of their operands and results."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not is_free(func):
            self.count += 1
            touched = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, Tensor)]
            self.bytes += sum(x.numel() * x.element_size() for x in touched)
        return result


def is_free(operation: Any) -> bool:
    """Whether a dispatched operation launches nothing, such as a view or an allocation."""
    return bool(operation.is_view) or operation.overloadpacket in (
        torch.ops.aten.empty,
        torch.ops.aten.empty_like,
        torch.ops.aten.empty_strided,
        torch.ops.aten.new_empty,
        torch.ops.aten._unsafe_view,
    )


@torch.no_grad()
def dispatched(call: Call) -> tuple[int, int]:
    """The operations that a call dispatches, and the bytes that they read and write.

    The bytes are nominal: those of each operation's operands and result, as if there were no cache.
    """
    with _Dispatched() as counted:
        call()
    return counted.count, counted.bytes


@torch.inference_mode()
def launched(call: Call) -> int:
    """The number of kernels, copies and memory sets that a call launches on a GPU."""
    return sum(event.count for event in _kernels(call))


@torch.inference_mode()
def costliest(call: Call, device: torch.device, rows: int = 10) -> list[tuple[str, float, int]]:
    """The kernels or operations that take longest: name, share of the time, and count."""
    events = _kernels(call) if device.type == "cuda" else _operations(call)
    spent = {event.key: _time(event) for event in events}
    total = sum(spent.values()) or 1.0
    worst = sorted(events, key=_time, reverse=True)[:rows]
    return [(event.key, spent[event.key] / total, event.count) for event in worst]


def _time(event: Any) -> float:
    return float(event.self_device_time_total or event.self_cpu_time_total)


def _kernels(call: Call) -> list[Any]:
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorded:
        call()
        torch.cuda.synchronize()
    events: list[Any] = list(recorded.key_averages())
    return [event for event in events if event.device_type.name == "CUDA"]


def _operations(call: Call) -> list[Any]:
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        call()
    return list(recorded.key_averages())


def machine_rates(device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """Measure TFLOP/s of a square matrix product, and GB/s that a copy reads and writes."""
    on_gpu = device.type == "cuda"
    side, size = (8192, 2**30) if on_gpu else (1024, 2**26)
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    source = torch.ones(size, device=device, dtype=torch.uint8)
    product, copy = Timer(lambda: a @ b, device), Timer(source.clone, device)
    interleave([product, copy], 5, time.monotonic() + 60)
    return 2 * side**3 / product.seconds / 1e12, 2 * size / copy.seconds / 1e9
