"""A worker's process: a Ray actor that does one task at a time."""

import os
import socket
import threading
import time
from importlib import import_module
from typing import Any

import ray

from farm.logs import LogFormat, log_to_stderr
from farm.metrics.ray_meter import RayMeter
from farm.model.task_order import Order, Step
from farm.scheduling.placement import Slot
from farm.settings import known_secrets, traces_endpoint
from farm.store import KnownStore
from farm.tracing import UNTRACED, Tracer, open_tracer
from farm.workers.faults import StoppedError
from farm.workers.interface import share_by
from farm.workers.task_log import logged
from svd_engine import NUMERICS


def free_torch_threads(spins: bool = False) -> None:
    """Let torch choose its number of threads; call this before the process imports torch.

    Ray limits OMP_NUM_THREADS to an actor's CPUs. On a CPU the last bits of a result depend on the
    number of threads, and a clip must not depend on which worker rendered it. spins: see `Slot`.
    """
    os.environ.pop("OMP_NUM_THREADS", None)
    if not spins:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


class Host:
    """Runs a worker in its own process. Methods of the group `control` answer during a task too."""

    def __init__(
        self,
        slot: Slot,
        store: KnownStore,
        engine: str,
        compiled: bool,
        name: str,
        log_format: LogFormat,
    ) -> None:
        """engine: the module whose `Worker` is run. compiled: whether by `svd_engine.optimize`."""
        self._name, self._log_format = name, log_format
        self._slot, self._store, self._engine, self._compiled = slot, store, engine, compiled
        self._worker: Any = None
        self._tracer: Tracer = UNTRACED
        self._stopping = ""  # the attempt that was asked to stop
        self._handing_over = ""  # the attempt that was asked to hand over
        self._step = "", Step(0)  # the attempt under way, and its progress
        self._stepped = threading.Event()

    def begin(self) -> None:
        """Load the engine. The constructor does not, because Ray would wrap its errors."""
        log_to_stderr(self._log_format, known_secrets(None), worker=self._name)
        self._tracer = open_tracer("svd-farm-worker", traces_endpoint())
        free_torch_threads(self._slot.spins)
        share_by(ray.util.get_node_ip_address())
        device = "cuda" if self._slot.gpus else "cpu"
        store = self._store.metered(RayMeter())
        worker = import_module(self._engine).Worker
        self._worker = worker(self._slot.kind, device, store, self._compiled)

    @ray.method(num_returns=2)
    def run(self, order: Order, *inputs: Any) -> tuple[Any, float]:
        """Run a task; returns its result, and the seconds that it took."""
        with logged(order, self._name, self._tracer):
            return self._run(order, *inputs)

    def _run(self, order: Order, *inputs: Any) -> tuple[Any, float]:
        began = time.perf_counter()
        work, hand_over = self._worker.run(order, *inputs), False
        while True:
            try:
                step = work.send(hand_over or None)  # None at first, as it must be
            except StopIteration as end:
                return end.value, time.perf_counter() - began
            if self._stopping == order.attempt:
                raise StoppedError
            hand_over = self._handing_over == order.attempt
            self._step = order.attempt, step
            self._stepped.set()

    @ray.method(concurrency_group="control")
    def place(self) -> str:
        """The process's address and pid, `address:pid`; answers as soon as the process is up."""
        return f"{ray.util.get_node_ip_address()}:{os.getpid()}"

    @ray.method(concurrency_group="control")
    def numerics(self) -> int:
        """NUMERICS of this node's engine, which may differ from the coordinator's."""
        return NUMERICS

    @ray.method(concurrency_group="control")
    def stepped(self) -> tuple[str, Step]:
        """Wait for the next step; returns its attempt and progress. Fails when the worker dies."""
        self._stepped.wait()
        self._stepped.clear()
        return self._step

    @ray.method(concurrency_group="control")
    def memory(self) -> int | None:
        """The bytes of its GPU that this worker may use; None without a GPU."""
        if not self._slot.gpus:
            return None
        from farm.workers.engines import gpu_bytes

        return int(self._slot.gpus * gpu_bytes())

    @ray.method(concurrency_group="control")
    def rendezvous(self) -> str:
        """An address (host:port) for the rendezvous of workers that share a task with this one."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return f"{ray.util.get_node_ip_address()}:{probe.getsockname()[1]}"

    @ray.method(concurrency_group="control")
    def stop(self, attempt: str) -> None:
        """Ask an attempt to end at its next step."""
        self._stopping = attempt

    @ray.method(concurrency_group="control")
    def hand_over(self, attempt: str) -> None:
        """Ask an attempt to save a checkpoint at its next step, and end, if it can."""
        self._handing_over = attempt
