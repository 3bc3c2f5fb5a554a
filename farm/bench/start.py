"""Measurement of a farm on a store with many jobs, beside one on an empty store."""

import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil

from farm.bench import sleeper
from farm.client.farm import Farm
from farm.client.ray_link import connect
from farm.model.job import JobRecord, Opened, State
from farm.model.request import Model, RenderRequest
from farm.settings import load_settings
from farm.store import Store, open_store
from farm.store.keys import TENANTS_WHOLE, job_key, open_key, tenant_key, use_key
from svd_engine.params import RenderDefaults, RenderParams

PAST, OPEN = 20_000, 5_000
TENANTS = 50
THREADS = 16
PAGE = 100
DEFAULTS = RenderDefaults(width=64, height=64, num_frames=8)


def bench_start() -> None:
    """Measure, and print the results."""
    import ray

    with (
        tempfile.TemporaryDirectory() as empty,
        tempfile.TemporaryDirectory() as past,
        tempfile.TemporaryDirectory() as full,
    ):
        stores = {"an empty store": empty, f"{PAST} past jobs": past}
        stores[f"{PAST} past jobs, {OPEN} open"] = full
        _fill(open_store(past), PAST)
        _fill(open_store(full), PAST + OPEN)
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        try:
            for what, store in [*stores.items()] * 2:
                began = time.perf_counter()
                farm = connect(load_settings(store=store, workers=1), sleeper.__name__)
                ready = time.perf_counter() - began
                print(f"start on {what}: {ready:.1f} s; {_described(farm)}")
                ray.kill(ray.get_actor("coordinator", namespace="farm"))
        finally:
            ray.shutdown()


def _described(farm: Farm) -> str:
    """How long lists and a look for garbage take, and what they leave in memory."""
    before = _memory(farm)
    newcomer = _seconds(lambda: farm.views("newcomer", "", PAGE, True))
    first = _seconds(lambda: farm.views("tenant-1", "", PAGE, True))
    again = _seconds(lambda: farm.views("tenant-1", "", PAGE, True))
    garbage = _seconds(farm.garbage)
    garbage_again = _seconds(farm.garbage)
    grown = (_memory(farm) - before) / max(1, PAST)
    return (
        f"a page of {PAGE} of a tenant's jobs: {first:.3f} s, again {again:.3f} s, of a new "
        f"tenant's {newcomer:.3f} s; a look for garbage: {garbage:.1f} s, again "
        f"{garbage_again:.1f} s; {before / 1e6:.0f} MB of memory before, {grown:,.0f} bytes more "
        "for each past job after"
    )


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _memory(farm: Farm) -> int:
    """The memory of the coordinator's process, in bytes."""
    return int(psutil.Process(farm.ready()["pid"]).memory_info().rss)


def _fill(store: Store, jobs: int) -> None:
    def write(job: JobRecord) -> None:
        store.put(tenant_key(job.tenant, job.id), b"")
        store.put(use_key(job.request.picture, job.id), b"")
        store.put(job_key(job.id), job.model_dump_json().encode())
        if job.state.is_open:
            opened = Opened(job=job.id, tenant=job.tenant)
            store.put(open_key(job.id), opened.model_dump_json().encode())

    store.put(TENANTS_WHOLE, b"{}")  # no job is older than the index
    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(write, _jobs(jobs)))


def _jobs(count: int) -> Iterator[JobRecord]:
    for number in range(count):
        request = RenderRequest(
            picture=f"{number % 100:064x}",
            weights="0" * 64,
            dtype="float32",
            params=RenderParams(seed=number).resolve(DEFAULTS),
        )
        yield JobRecord(
            id=f"job-{number:05}",
            tenant=f"tenant-{number % TENANTS}",
            model=Model(name="tiny"),
            request=request,
            state=State.CANCELLED if number < PAST else State.QUEUED,
            created_at=1e9,
            finished_at=1e9 if number < PAST else None,
        )
