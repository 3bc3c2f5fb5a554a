"""`python -m farm.bench`: measure the farm's overhead on top of rendering, on this machine.

Every figure is printed beside one to compare it with, from the same run. To measure the farm alone,
its workers sleep instead of rendering (`farm.bench.sleeper`).
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from typing import Any

from PIL import Image

from farm.bench import sleeper
from farm.bench.flood import bench_flood
from farm.bench.sleeper import CLIP_S, STEPS
from farm.client.farm import Farm
from farm.errors import FarmError, RequestError, StoreError
from farm.model.job import Submission
from farm.model.request import Model
from farm.quantities import counted
from farm.settings import load_settings
from farm.simulate.simulation import decision_rate
from farm.store import open_store
from svd_engine.command_line import STATUSES, Parser, name_of, one_line, positive
from svd_engine.nearest import no_such
from svd_engine.params import RenderParams

CLIPS_PER_WORKER = 10
SUBMITS = 2000
PARTS = ("scheduler", "submits", "start", "flood", "overhead", "busy", "http")
THREADS = 16
SMALL = {"width": 128, "height": 128, "num_frames": 8, "num_inference_steps": STEPS}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print. Returns 0 if it worked, 1 if it failed, 2 for wrong usage."""
    parser = Parser(name_of("farm.bench"), description=__doc__.split("\n\n")[0], epilog=STATUSES)
    parser.add_argument(
        "--store", action="append", metavar="URL", help="an S3 store to measure submits to, as well"
    )
    parser.add_argument(
        "parts",
        nargs="*",
        metavar="PART",
        help=f"what to measure: {', '.join(PARTS)} (default: all)",
    )
    parser.add_argument(
        "--workers",
        type=_counts,
        default="1,2,4,8,16",
        metavar="N,N,...",
        help="the numbers of workers for the part busy",
    )
    options = parser.parse_args(arguments)
    parts: dict[str, Callable[[], None]] = {
        "scheduler": lambda: print(f"scheduler: {decision_rate():,.0f} decisions a second"),
        "submits": lambda: _submits(options.store or []),
        "start": _start,
        "flood": _flood,
        "overhead": _overhead,
        "busy": lambda: _busy(options.workers),
        "http": _http,
    }
    for name in options.parts:
        if name not in parts:
            parser.error(no_such("part", name, PARTS))
    try:
        for url in options.store or ():
            open_store(url, make=False)
        for name in options.parts or parts:
            parts[name]()
    except FarmError as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        return 2 if isinstance(error, (RequestError, StoreError)) else 1
    return 0


def _counts(text: str) -> list[int]:
    return [positive(part) for part in text.split(",")]


def _start() -> None:
    from farm.bench.start import bench_start

    bench_start()


def _flood() -> None:
    def submission(seed: int, tenant: str) -> Submission:
        return _submission(seed).model_copy(update={"tenant": tenant})

    with _farm() as farm:
        bench_flood(farm, submission, _picture())


def _http() -> None:
    from farm.bench.http import bench_http  # Serve is slow to load

    bench_http(_picture())


@contextmanager
def _farm(
    store: str | None = None, engine: str = sleeper.__name__, **settings: Any
) -> Iterator[Farm]:
    """Start a farm on a Ray cluster of its own, with one worker of each kind."""
    import ray

    from farm.client.ray_link import connect

    with tempfile.TemporaryDirectory() as folder:
        own = {"store": store or folder, "workers": 1, "max_jobs": 100_000, **settings}
        cpus = max(2, 2 * own["workers"])  # more than there are, because sleepers need no core
        ray.init("local", num_cpus=cpus, include_dashboard=False, log_to_driver=False)
        try:
            yield connect(load_settings(**own), engine)
        finally:
            ray.shutdown()


def _picture() -> bytes:
    buffer = BytesIO()
    Image.linear_gradient("L").convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def _submission(seed: int) -> Submission:
    return Submission(model=Model(), params=RenderParams(seed=seed, **SMALL))


def _submits(stores: Sequence[str]) -> None:
    """Measure latency and rate of submits, which are in the store when they return."""
    picture = _picture()
    for store in [None, *stores]:
        with _farm(store) as farm:
            farm.submit(_submission(10**6), picture)  # warm up: reads the model, stores the picture
            times = []
            for seed in range(SUBMITS // 20):
                began = time.perf_counter()
                farm.submit(_submission(seed), picture)
                times.append(time.perf_counter() - began)
            began = time.perf_counter()
            with ThreadPoolExecutor(THREADS) as threads:
                seeds = range(1000, 1000 + SUBMITS)
                list(threads.map(lambda n: farm.submit(_submission(n), picture), seeds))
            rate = SUBMITS / (time.perf_counter() - began)
            times.sort()
            print(
                f"submit to {'a folder' if store is None else 'S3'}: "
                f"p50 {times[len(times) // 2] * 1e3:.0f} ms, p99 {times[-2] * 1e3:.0f} ms one by "
                f"one; {rate:.0f} a second from {THREADS} threads, {SUBMITS} of them"
            )


def _overhead() -> None:
    """Compare a job of the model `tiny` on the farm with `engine.render` alone, in turn."""
    from svd_engine import Engine
    from svd_engine.video import encode_video

    engine, picture = Engine.from_pretrained("tiny"), _picture()
    with _farm(engine="farm.workers.worker") as farm:
        alone, farmed = [], []
        for seed in range(9):
            params = RenderParams(seed=seed, **SMALL)
            began = time.perf_counter()
            clip = engine.render(picture, params)
            encode_video(clip.frames, clip.fps)
            alone.append(time.perf_counter() - began)
            began = time.perf_counter()
            job = farm.submit(_submission(seed), picture).job
            for _ in farm.watch([job.id]):
                pass
            farmed.append(time.perf_counter() - began)
        # The first two are left out, because they load the model.
        more = [f - a for f, a in zip(farmed[2:], alone[2:], strict=True)]
        print(
            f"a job of tiny, {STEPS} steps: {statistics.median(farmed[2:]):.2f} s on the farm, "
            f"{statistics.median(alone[2:]):.2f} s by engine.render and encode_video; "
            f"{statistics.median(more) * 1e3:.0f} ms more"
        )


def _busy(counts: Sequence[int]) -> None:
    """Measure the share of time that renderers work while clips are waiting for them."""
    picture = _picture()
    for count in counts:
        with _farm(workers=count) as farm:
            ready = 0
            while ready < 2 * count:
                time.sleep(0.2)
                ready = sum("place" in w for w in farm.status()["workers"].values())
            seeds = range(CLIPS_PER_WORKER * count)
            with ThreadPoolExecutor(THREADS) as threads:
                jobs = list(threads.map(lambda s: farm.submit(_submission(s), picture), seeds))
            for _ in farm.watch([view.job.id for view in jobs]):
                pass
            done = [farm.show(view.job.id).job for view in jobs]
        began = min(job.started_at or 0 for job in done)
        ended = max(job.finished_at or 0 for job in done)
        slept = CLIP_S * len(done)
        print(
            f"{counted(count, 'worker')}, {counted(len(done), 'clip')} of {CLIP_S:g} s: "
            f"busy {slept / (count * (ended - began)):.1%} of {ended - began:.1f} s"
        )


if __name__ == "__main__":
    sys.exit(main())
