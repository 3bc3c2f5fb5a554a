"""The reason why no worker is up is shown with every job until one is."""

from pathlib import Path

import pytest

from farm.__main__ import main
from farm.batch.progress import Reporter
from farm.client.farm import Farm
from farm.client.progress_bar import describe
from farm.client.remote import ClusterRemote
from farm.model.job import State
from farm.model.plan import Kind
from farm.scheduling.blocked import why_blocked
from farm.scheduling.placement import Slot
from farm.store import Store
from tests.support.failing import MODE
from tests.support.farm_jobs import finish, kill, open_farm, picture_bytes, submission, wait_for

PICTURE = picture_bytes()
SLOTS = {
    f"{kind}-{number}": Slot(kind, "ab12" * 14, 1.0, 0.0) for kind in Kind for number in range(3)
}
ALL = frozenset(SLOTS)
RENDERERS = frozenset(name for name in SLOTS if name.startswith("renderer"))


def test_a_cluster_without_room() -> None:
    assert "no node of the Ray cluster has a GPU or a CPU" in why_blocked({}, (), {}, ())


def test_nothing_is_said_of_workers_that_are_up_or_just_start() -> None:
    assert why_blocked(SLOTS, ALL, {}, ()) == ""
    assert why_blocked(SLOTS, (), {}, ()) == ""
    some = {"renderer-0", "decoder-2"}
    dead = dict.fromkeys(ALL - some, "killed")
    assert why_blocked(SLOTS, some, dead, ()) == ""


def test_each_kind_that_is_missing_is_named_with_what_it_died_of() -> None:
    dead = {"renderer-0": "out of memory", "renderer-2": "no driver"}
    why = why_blocked(SLOTS, ALL - RENDERERS, dead, ())
    assert why == "no renderer is up: renderer-0 (and 1 more): out of memory"
    why = why_blocked(SLOTS, (), {"renderer-1": "no driver", "decoder-1": "no file"}, ())
    assert "no renderer is up: renderer-1: no driver" in why
    assert "no decoder is up: decoder-1: no file" in why


def test_workers_that_are_drained() -> None:
    assert why_blocked(SLOTS, ALL, {}, RENDERERS - {"renderer-0"}) == ""
    assert "every renderer is drained" in why_blocked(SLOTS, ALL, {}, RENDERERS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def farm(folder: Path, ray_cluster: None) -> Farm:
    (folder / MODE).write_text("raise")
    return open_farm(folder, engine="tests.support.failing", load_s=60.0)


@pytest.fixture(scope="module")
def store(farm: Farm) -> Store:
    return farm.store()


def blocked(farm: Farm, job: str, words: str) -> str:
    """Why the job is blocked, once these words are in it."""
    return wait_for(lambda: (b := farm.show(job).progress.blocked) and words in b and b, 150.0)


@pytest.mark.slow
def test_workers_that_die_at_start(
    farm: Farm, store: Store, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Why is in the job, its log, the status and on the terminals, until it heals."""
    job = farm.submit(submission(tiny), PICTURE).job.id
    blocked(farm, job, "no renderer is up: renderer-0: ImportError: libcudart.so.13: cannot open")
    wait_for(lambda: [e for e in farm.events(job) if e.event == "blocked"])
    status = farm.status()
    assert "libcudart" in status["blocked"]
    assert "libcudart" in status["workers"]["renderer-0"]["why"]
    assert main(["status"]) == 0
    assert "jobs wait: no renderer is up: renderer-0: ImportError" in capsys.readouterr().out
    assert "libcudart" in describe(ClusterRemote(farm).state(job))
    reporter = Reporter(1, 0, 5, terminal=False)
    reporter.progress("a clip", farm.show(job))
    reporter.progress("another", farm.show(job))
    assert capsys.readouterr().err.count("waiting: no renderer is up: renderer-0: Imp") == 1

    store.put(MODE, b"die")
    blocked(farm, job, "worker process has died")
    later = farm.submit(submission(tiny, seed=1), PICTURE).job.id
    assert [e.event for e in wait_for(lambda: farm.events(later))][:2] == ["submitted", "blocked"]

    store.delete(MODE)
    views = finish(farm, job, later)
    assert [view.job.state for view in views.values()] == [State.COMPLETED] * 2
    assert views[job].progress.blocked is None
    assert farm.status()["blocked"] is None
    events = [entry.event for entry in farm.events(job)]
    assert events.index("unblocked") > events.index("blocked")
    reporter.progress("a clip", views[job])
    assert "continuing" in capsys.readouterr().err
    reporter.close()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_workers_that_hang_at_start_or_at_load_are_ended(
    farm: Farm, store: Store, tiny: Path
) -> None:
    store.put(MODE, b"load")
    for worker in farm.status()["workers"].values():  # new ones have no model loaded
        if place := worker.get("place"):
            kill(place)
    job = farm.submit(submission(tiny, seed=3), PICTURE).job.id
    # A worker that was killed may have taken the task before it was missed.
    wait_for(lambda: "is not loaded within 60 s" in str(farm.events(job)), 300.0)
    store.put(MODE, b"hang")
    why = blocked(farm, job, "its engine does not load")
    blocked(farm, job, f"{why.split(': ')[-1]}, and was ended after 60 s")
    store.delete(MODE)
    assert finish(farm, job)[job].job.state is State.COMPLETED
