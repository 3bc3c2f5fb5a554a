"""Measurement of how long a farm takes to start on a store with many jobs, and on an empty one."""

import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

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
DEFAULTS = RenderDefaults(width=64, height=64, num_frames=8)


def bench_start() -> None:
    """Measure, and print the results."""
    import ray

    with tempfile.TemporaryDirectory() as empty, tempfile.TemporaryDirectory() as full:
        _fill(open_store(full))
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        try:
            for store in (empty, full, empty, full):
                began = time.perf_counter()
                farm = connect(load_settings(store=store, workers=1), sleeper.__name__)
                ready = time.perf_counter() - began
                listed = _list(farm)
                what = "an empty store" if store == empty else f"{PAST} past jobs, {OPEN} open"
                print(f"start on {what}: {ready:.1f} s; a new tenant's first list: {listed:.3f} s")
                ray.kill(ray.get_actor("coordinator", namespace="farm"))
        finally:
            ray.shutdown()


def _list(farm: Farm) -> float:
    began = time.perf_counter()
    assert farm.views("newcomer", "", 20, True) == []
    return time.perf_counter() - began


def _fill(store: Store) -> None:
    def write(job: JobRecord) -> None:
        store.put(tenant_key(job.tenant, job.id), b"")
        store.put(use_key(job.request.picture, job.id), b"")
        store.put(job_key(job.id), job.model_dump_json().encode())
        if job.state.is_open:
            opened = Opened(job=job.id, tenant=job.tenant)
            store.put(open_key(job.id), opened.model_dump_json().encode())

    store.put(TENANTS_WHOLE, b"{}")  # no job is older than the index
    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(write, _jobs()))


def _jobs() -> Iterator[JobRecord]:
    for number in range(PAST + OPEN):
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
