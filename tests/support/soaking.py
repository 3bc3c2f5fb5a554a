"""What the runs of the soak share: their jobs, a load from Python, and the checks at the end."""

import hashlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import psutil

from farm.client.farm import Farm
from farm.errors import FarmError
from farm.model.job import State, Submission
from farm.model.request import Model
from svd_engine import Engine, RenderParams
from tests.support.farm_jobs import picture_bytes, wait_for
from tests.support.jumping_clock import JumpingClock

SEEDS = 40  # different clips, so that many jobs share one
PARAMS = {"width": 64, "height": 48, "num_frames": 5, "num_inference_steps": 8}
PICTURE = picture_bytes()
DRAIN_S = 600.0  # for the jobs that are open at the end
HOUR_S = 3600.0


@dataclass
class Run:
    """A farm under load, and what was done to it."""

    farm: Farm
    clock: JumpingClock  # of the farm's processes
    until: float
    chance: random.Random
    began: float = field(default_factory=time.time)
    jobs: set[str] = field(default_factory=set)  # acknowledged
    done: Counter[str] = field(default_factory=Counter)  # faults, and jobs by door

    @property
    def over(self) -> bool:
        return time.monotonic() >= self.until


def all_together(works: Sequence[Callable[[], None]], seconds: float) -> None:
    """Do some works at once, each in a thread. Raises AssertionError if one does not end."""
    threads = [threading.Thread(target=work, daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds + DRAIN_S)
        assert not thread.is_alive()


def from_python(run: Run) -> None:
    while not run.over:
        with suppress(FarmError):
            params = RenderParams(seed=run.chance.randrange(SEEDS), **PARAMS)
            asked = Submission(model=Model(name="tiny"), tenant="python", params=params)
            acknowledged(run, "python", run.farm.submit(asked, PICTURE).job.id)
        time.sleep(run.chance.uniform(0.2, 1.5))


def acknowledged(run: Run, door: str, job: str) -> None:
    run.jobs.add(job)
    run.done[f"submits by {door}"] += 1


def do_harm(run: Run, harms: dict[str, Callable[[], object]], faults: Sequence[str]) -> None:
    """One fault every few seconds; in the last fifth of the time all is left in peace."""
    ends = run.until - 0.2 * (run.until - time.monotonic())
    while time.monotonic() < ends:
        time.sleep(run.chance.uniform(4, 12))
        what = run.chance.choice(faults)
        with suppress(FarmError, IndexError, psutil.Error):
            harms[what]()
            run.done[f"faults: {what}"] += 1


def for_some_seconds(run: Run, begin: Callable[[], None], end: Callable[[], None]) -> None:
    try:
        begin()
        time.sleep(run.chance.uniform(1, 8))
    finally:
        end()


def jump(run: Run) -> None:
    """Let the wall clock jump an hour forth or back, and after some seconds to what it was."""
    hour = run.chance.choice((-HOUR_S, HOUR_S))
    for_some_seconds(run, lambda: run.clock.jump(hour), lambda: run.clock.jump(0))


def kill_worker(run: Run) -> None:
    workers = run.farm.status()["workers"].values()
    places = [worker["place"] for worker in workers if worker.get("place")]
    kill(int(run.chance.choice(places).rpartition(":")[2]))


def kill_coordinator(run: Run) -> None:
    kill(run.farm.ready()["pid"])


def kill(pid: int) -> None:
    psutil.Process(pid).kill()


def check(run: Run) -> None:
    """All complete, once, and as the engine alone renders them."""
    began = time.monotonic()
    wait_for(lambda: not _open_jobs(run), DRAIN_S)
    run.done["seconds to the last job"] = round(time.monotonic() - began)
    engine = Engine.from_pretrained("tiny")
    expected: dict[int, str] = {}
    for job in sorted(run.jobs):
        record = run.farm.show(job).job
        assert record.state is State.COMPLETED, (job, record.state, record.error)
        (result,) = record.results
        params = record.request.params
        if params.seed not in expected:
            frames = engine.render(PICTURE, params).frames
            expected[params.seed] = hashlib.sha256(frames.tobytes()).hexdigest()
        assert result.sha256 == expected[params.seed], job
        entries = list(run.farm.events(job))
        assert [entry.event for entry in entries].count("complete") == 1, (job, entries)
        since, until = run.began - HOUR_S / 2, time.time() + HOUR_S / 2
        wrong = any(not since < entry.at < until for entry in entries)
        run.done["jobs with an event at a wrong hour"] += wrong
        assert run.farm.store().exists(result.video)
    run.done["jobs checked"] = len(run.jobs)
    run.done["clips rendered"] = len(expected)


def _open_jobs(run: Run) -> int:
    with suppress(FarmError):
        return len(run.farm.jobs("", 1000, open_only=True))
    return 1
