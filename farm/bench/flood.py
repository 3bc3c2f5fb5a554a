"""Measurement of a farm with thousands of open jobs of one tenant, beside one of another."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from farm.client.farm import Farm
from farm.model.job import JobView, Submission

OPEN = 2000
SAMPLES = 50
THREADS = 16


def bench_flood(farm: Farm, submission: Callable[[int, str], Submission], picture: bytes) -> None:
    """Measure, and print the results.

    submission: makes one of a seed and a tenant. farm: with workers that take seconds for a clip.
    """
    farm.submit(submission(10**6, "warm-up"), picture)  # reads the model, stores the picture
    times = [_submit(farm, submission(10**6 + n, "other"), picture)[1] for n in range(SAMPLES)]
    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(lambda n: farm.submit(submission(n, "flood"), picture), range(OPEN)))
    full = [_submit(farm, submission(OPEN + n, "flood"), picture)[1] for n in range(SAMPLES)]
    waits = [_wait(farm, submission(10**7 + n, f"single-{n}"), picture) for n in range(9)]
    print(
        f"a submit beside {SAMPLES} open jobs: {_middle(times) * 1e3:.0f} ms, beside {OPEN}: "
        f"{_middle(full) * 1e3:.0f} ms; with {OPEN} jobs of another tenant open, a single job "
        f"starts after {_middle(waits):.1f} s, at most {max(waits):.1f} s"
    )


def _submit(farm: Farm, submission: Submission, picture: bytes) -> tuple[JobView, float]:
    began = time.perf_counter()
    view = farm.submit(submission, picture)
    return view, time.perf_counter() - began


def _wait(farm: Farm, submission: Submission, picture: bytes) -> float:
    """Seconds from a submit until a worker has started the job."""
    view, _ = _submit(farm, submission, picture)
    while (job := farm.show(view.job.id).job).started_at is None:
        time.sleep(0.05)
    return job.started_at - job.created_at


def _middle(times: list[float]) -> float:
    return sorted(times)[len(times) // 2]
