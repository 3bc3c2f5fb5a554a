"""`python -m tests.upgrade REVISION`: two versions of the farm take turns on a store.

The revision is an earlier commit of this repository. Its code and this checkout's run a farm in
turn, the last one this checkout's. Each submits jobs, and is killed with all its processes while
some are open. At the end every job must be complete, once, with the engine's own frames.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import tests.conftest  # noqa: F401  # isort: skip: Ray reads its environment when it is imported

from farm.model.job import State
from farm.store import open_store
from svd_engine import NUMERICS
from svd_engine.tiny import write_tiny
from tests.support.farm_jobs import expected_sha256, finish, open_farm, picture_bytes, wait_for
from tests.support.programs import kill_family
from tests.support.ray_cluster import local_cluster

ROOT = Path(__file__).parents[1]
JOBS = 4  # that each farm submits
PATIENCE_S = 180.0
DRIVER = """
import sys, time
from pathlib import Path
from tests.support.farm_jobs import open_farm, picture_bytes, submission
from tests.support.ray_cluster import local_cluster
store, model, first, count = sys.argv[1:]
with local_cluster():
    farm = open_farm(store)
    for seed in range(int(first), int(first) + int(count)):
        asked = submission(Path(model), seed=seed, num_inference_steps=12)
        print(farm.submit(asked, picture_bytes()).job.id, flush=True)
    time.sleep(600)
"""


@dataclass(frozen=True)
class Upgraded:
    """What came of it."""

    jobs: int
    open_at_ends: tuple[int, ...]  # jobs, when each farm was killed
    garbage_left: int  # objects, after all jobs were deleted


@contextmanager
def checkout(revision: str) -> Iterator[Path]:
    """The code of a revision."""
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(
            ["git", "archive", revision], cwd=ROOT, check=True, capture_output=True
        ).stdout
        subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
        yield Path(folder)


def upgrade(revision: str) -> Upgraded:
    """Take turns; raises AssertionError if anything is lost, doubled or mixed up."""
    with tempfile.TemporaryDirectory() as folder, checkout(revision) as old:
        store, model = Path(folder, "store"), write_tiny(Path(folder, "tiny"))
        jobs: list[str] = []
        left = []
        for code in (old, ROOT, old):
            jobs += _live(code, store, model, first=len(jobs))
            left.append(len([*open_store(str(store)).list("open/")]))
        with local_cluster():
            farm = open_farm(store)
            views = finish(farm, *jobs)
            for job, view in views.items():
                assert view.job.state is State.COMPLETED, (job, view.job.error)
                expected = expected_sha256(model, picture_bytes(), view)
                assert [result.sha256 for result in view.job.results] == expected
                assert all(r.request.numerics == NUMERICS for r in view.job.results)
                assert [entry.event for entry in farm.events(job)].count("complete") == 1
                farm.delete(job)
            farm.collect_garbage()
            found = [
                key
                for prefix in ("clips/", "jobs/", "events/", "uses/", "answers/")
                for key in open_store(str(store)).list(prefix)
            ]
        return Upgraded(len(jobs), tuple(left), len(found))


def _live(code: Path, store: Path, model: Path, first: int) -> list[str]:
    """Run a farm until it has completed a job, kill it; the jobs that it submitted."""
    command = [sys.executable, "-c", DRIVER, str(store), str(model), str(first), str(JOBS)]
    environment = os.environ | {"PYTHONPATH": str(code)}
    process = subprocess.Popen(
        command, cwd=code, env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        jobs = [process.stdout.readline().strip() for _ in range(JOBS)]
        assert all(jobs), "the farm has ended"
        done = _results(store)
        wait_for(lambda: _results(store) > done, PATIENCE_S)
        time.sleep(0.2)
    finally:
        kill_family(process)
        process.stdout.close()
    return jobs


def _results(store: Path) -> int:
    return len([*store.glob("clips/*/clip.json")])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.upgrade")
    parser.add_argument("revision")
    print(upgrade(parser.parse_args().revision))


if __name__ == "__main__":
    main()
