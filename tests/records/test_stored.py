"""`python -m farm jobs`, `show` and `logs` with --store: read without a farm, never written."""

import asyncio
import json
import re
import socket
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest

from farm.__main__ import main
from farm.client.farm import FarmReader
from farm.errors import FarmError, StoreError
from farm.model.job import JobRecord, State
from farm.records.event_logs import EventLogs
from farm.records.stored import StoredJobs
from farm.store import open_store
from farm.store.keys import JOBS, job_key
from tests.old_stores import STORES
from tests.support.farm_jobs import picture_bytes, submission
from tests.support.inline_farm import coordinator, inline

__all__ = ["inline"]
ARCHIVES = sorted(STORES.glob("*.tar.gz"))


@pytest.fixture(params=ARCHIVES, ids=lambda path: path.name.split(".")[0])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    with tarfile.open(request.param) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "store"


@pytest.fixture
def no_farm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """No cluster is found, and no store by default; where one would be."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("FARM_STORE", raising=False)
    monkeypatch.chdir(tmp_path)
    return address


def state_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Everything in a folder: when it changed, and what it holds."""
    found = (folder, *folder.rglob("*"))
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in found
    }


def test_every_command_reads_and_changes_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, store = state_of(folder), str(folder)
    assert main(["jobs", "--store", store, "--all"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert main(["--store", f"file://{store}", "jobs"]) == 0  # the open one alone
    (open_line,) = capsys.readouterr().out.splitlines()
    assert open_line in lines
    for line in lines:
        job = line.split()[0]
        assert main(["show", job, "--store", store]) == 0
        shown = json.loads(capsys.readouterr().out)
        assert shown["job"]["id"] == job
        assert State(shown["job"]["state"]) in line
        assert main(["logs", job, "--store", store]) == 0
        assert "submitted" in capsys.readouterr().out.splitlines()[0]
    assert state_of(folder) == before


@pytest.mark.parametrize("data", [b"", b"{", b"\xff" * 50, b"[]", b'{"id": "another"}'])
def test_what_cannot_be_read_is_told_and_left(
    data: bytes,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    jobs = sorted(path.stem for path in (folder / "jobs").iterdir())
    (folder / job_key(jobs[0])).write_bytes(data)
    log = max((folder / "events" / jobs[1]).iterdir())
    log.write_bytes(log.read_bytes() + data + b"\nnoise\n")
    before, store = state_of(folder), str(folder)
    assert main(["jobs", "--all", "--store", store]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == jobs[1:]
    assert f"cannot read {folder / job_key(jobs[0])}" in caplog.text
    assert main(["show", jobs[0], "--store", store]) == 2
    assert str(folder / job_key(jobs[0])) in capsys.readouterr().err
    assert main(["logs", jobs[1], "--store", store]) == 0
    assert "submitted" in capsys.readouterr().out
    assert f"{log} is partly unreadable" in caplog.text
    assert state_of(folder) == before


def test_beside_a_farm_that_runs(tmp_path: Path, inline: Any) -> None:
    async def work() -> None:
        async with coordinator(tmp_path) as farm:
            stored = FarmReader(StoredJobs(str(tmp_path)))
            seen: list[JobRecord] = []
            for seed in range(5):
                asked = submission(Path("nano"), seed=seed, width=32, height=16, num_frames=2)
                job = (await farm.submit(asked, picture_bytes())).job
                assert (await asyncio.to_thread(stored.show, job.id)).job.id == job.id
                version = 0
                while (ended := (await farm.show(job.id)).job).state.is_open:
                    version, _ = await farm.watch([job.id], version)
                seen.append(ended)
            assert await asyncio.to_thread(stored.jobs) == seen
            assert await asyncio.to_thread(stored.jobs, seen[1].id, 2) == seen[2:4]
            assert await asyncio.to_thread(stored.jobs, "", 100, True) == []
            for job in seen:
                view = await asyncio.to_thread(stored.show, job.id)
                assert view.progress.fraction == 1.0
                assert await asyncio.to_thread(stored.events, job.id) == await farm.events(job.id)
            assert (await farm.status())["trouble"] is None

    asyncio.run(work())


def test_a_log_that_is_compacted_meanwhile_is_read_whole(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.put("store.json", b'{"id": "x"}')
    logs, stop = EventLogs(store, lambda _: None), threading.Event()

    async def write() -> None:
        logs.begin("job-1")
        for number in range(150):
            logs.add("job-1", f"event {number}", {})
            await logs.flush("job-1")
        stop.set()

    writer = threading.Thread(target=asyncio.run, args=(write(),))
    writer.start()
    stored, last = FarmReader(StoredJobs(str(tmp_path))), 0
    while not stop.is_set():
        entries = stored.events("job-1")
        assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
        assert len(entries) >= last
        last = len(entries)
    writer.join()
    assert len(stored.events("job-1")) == 150


@pytest.mark.parametrize("what", ["nothing", "a file", "a folder of pictures"])
def test_what_is_no_store(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "place"
    if what == "a file":
        place.write_bytes(b"")
    elif what == "a folder of pictures":
        place.mkdir()
        (place / "cat.webp").write_bytes(b"")
    before = state_of(tmp_path)
    assert main(["jobs", "--store", str(place)]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith(f"error: no farm keeps its jobs at {place}: give the --store")
    assert errors.count("\n") == 1
    assert state_of(tmp_path) == before


def test_a_wrong_id_names_the_nearest(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = min(path.stem for path in (folder / "jobs").iterdir())
    for wrong in (job[:-1] + "x", job.upper(), job[:-3]):
        assert main(["show", wrong, "--store", str(folder)]) == 1
        errors = capsys.readouterr().err
        assert f"There is no job {wrong!r}" in errors
        assert "Did you mean 'job-" in errors
    for wrong in ("../lease", "", "a/b", "\x00"):
        assert main(["logs", wrong, "--store", str(folder)]) == 1
        assert "There is no job" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["status"], ["jobs"], ["cancel", "job-1"], ["drain", "x"]])
def test_without_a_farm_it_is_told_where_jobs_can_be_seen(
    command: list[str], no_farm: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 1
    errors = capsys.readouterr().err
    assert f"no Ray cluster answers at {no_farm}: start one there, or unset RAY_ADDRESS" in errors
    assert errors.endswith("the jobs of an earlier farm: python -m farm jobs --all --store URL\n")
    assert "--address" not in errors
    Path("demo").mkdir()
    folder.rename("demo/store")
    assert main(command) == 1
    errors = capsys.readouterr().err
    assert errors.endswith("python -m farm jobs --all --store demo/store\n")
    assert main(errors.split("python -m farm ")[1].split()) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_status_without_a_farm_says_what_there_is_and_what_can_be_done(
    no_farm: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("farm.client.ray_link.join_cluster", lambda _prefer: False)
    assert main(["status"]) == 1
    alone = capsys.readouterr()
    assert alone.out.startswith("No farm runs here now.\n  start a farm:")
    assert alone.err == ""
    Path("demo").mkdir()
    folder.rename("demo/store")
    assert main(["status"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("The last jobs are in demo/store: ")
    assert sum(int(number) for number in re.findall(r"(\d+) \w", lines[1])) == 3
    commands = [line.partition("python -m ")[2].split() for line in lines if "python -m " in line]
    assert [command[:2] for command in commands] == [
        ["farm", "jobs"],
        ["farm", "serve"],
        ["farm", "serve"],
        ["farm.batch", "PICTURES"],
    ]
    assert main(commands[0][1:]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_a_store_answers_no_call_that_needs_a_farm(folder: Path) -> None:
    reader = FarmReader(StoredJobs(str(folder)))
    for name in ("status", "cancel", "drain"):
        assert not hasattr(reader, name)


def test_an_empty_store_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    open_store(str(tmp_path)).put("store.json", b'{"id": "x"}')
    assert main(["jobs", "--store", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "no open jobs; --all shows the finished ones too\n"
    assert main(["jobs", "--all", "--store", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "no jobs\n"
    with pytest.raises(FarmError):
        StoredJobs(str(tmp_path / "none"))
    assert [*open_store(str(tmp_path)).list(JOBS)] == []
    with pytest.raises(StoreError):
        StoredJobs("ftp://x")
