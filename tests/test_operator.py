"""`python -m farm` with a running farm: its output and its exit statuses."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import farm.__main__
from farm.__main__ import main
from farm.client.farm import Farm
from tests.support.farm_jobs import picture_bytes, submission
from tests.support.inline_farm import coordinator, inline

__all__ = ["inline"]
Run = Callable[..., Awaitable[int]]


@pytest.fixture
def operate(tmp_path: Path, inline: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run a test beside a coordinator, which `main` calls from a thread."""

    def operate(test: Callable[[Farm, Run], Awaitable[None]], **settings: Any) -> None:
        async def all_of_it() -> None:
            async with coordinator(tmp_path, **settings) as running:
                await running.drain("renderer-0")  # so that no job starts
                farm_here = Farm(running, asyncio.get_running_loop())

                async def run(*arguments: str) -> int:
                    return await asyncio.to_thread(main, arguments)

                monkeypatch.setattr(farm.__main__, "_farm_of", lambda _: farm_here)
                await test(farm_here, run)

        asyncio.run(asyncio.wait_for(all_of_it(), 60))

    return operate


def test_what_an_operator_is_told(
    operate: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    async def test(farm: Farm, run: Run) -> None:
        asked = submission(Path("nano"), width=32, height=16, num_frames=2)
        job = (await asyncio.to_thread(farm.submit, asked, picture_bytes())).job.id
        assert await run("jobs") == 0
        assert capsys.readouterr().out.strip().endswith("queued     0/1 clip of 32 x 16")
        for command in ("show", "logs", "cancel", "pause", "resume"):
            assert await run(command, f"{job}x") == 1
            errors = capsys.readouterr().err
            assert errors == f"error: There is no job '{job}x'. Did you mean '{job}'?\n"
        assert await run("priority", f"{job}x", "3") == 1
        assert f"Did you mean '{job}'?" in capsys.readouterr().err
        assert await run("priority", job, "101") == 2
        assert "from 0 to 100, got 101" in capsys.readouterr().err
        assert await run("drain", "decodr-0") == 1
        assert "decodr-0" in (errors := capsys.readouterr().err)
        assert "Did you mean 'decoder-0'?" in errors
        assert await run("pause", job) == 0
        assert await run("pause", job) == 1  # a paused job cannot be paused
        assert "it cannot pause" in (errors := capsys.readouterr().err)
        assert errors.count("\n") == 1
        assert await run("cancel", job) == 0
        capsys.readouterr()
        assert await run("jobs") == 0
        assert capsys.readouterr().out == "no open jobs; --all shows the finished ones too\n"

    operate(test)


def test_usage_is_csv(operate: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    async def test(farm: Farm, run: Run) -> None:
        asked = submission(Path("nano"), width=32, height=16, num_frames=2, tenant="acme")
        job = (await asyncio.to_thread(farm.submit, asked, picture_bytes())).job.id
        assert await run("usage") == 0
        heading = (
            "day,tenant,jobs,completed,failed,cancelled,clips_rendered,clips_reused,gpu_seconds"
        )
        assert capsys.readouterr().out.splitlines() == [heading]  # it is open
        await asyncio.to_thread(farm.cancel, job)
        today = datetime.now(UTC).date()
        assert await run("usage", "--since", str(today)) == 0
        assert capsys.readouterr().out.splitlines() == [heading, f"{today},acme,1,0,0,1,0,0,0.0"]
        assert await run("usage", "--since", str(today + timedelta(days=1))) == 0
        assert capsys.readouterr().out.splitlines() == [heading]
        with pytest.raises(SystemExit, match="2"):
            main(["usage", "--since", "yesterday"])
        assert "give a day, like 2026-11-28, not 'yesterday'" in capsys.readouterr().err

    operate(test)


def test_gc_says_what_it_would_delete_and_deletes_it(
    operate: Callable[..., None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from_a_store = farm.__main__._farm_of  # before `operate` replaces it

    async def test(running: Farm, run: Run) -> None:
        assert await run("gc") == 0
        assert capsys.readouterr().out == "nothing to delete\n"
        asked = submission(Path("nano"), width=32, height=16, num_frames=2, tenant="acme")
        job = (await asyncio.to_thread(running.submit, asked, picture_bytes())).job.id
        assert await run("gc") == 0  # an open job is not garbage
        assert capsys.readouterr().out == "nothing to delete\n"
        await asyncio.to_thread(running.cancel, job)
        assert await run("gc", "--dry-run") == 0
        planned = capsys.readouterr().out.splitlines()
        assert planned[0].split() == ["kind", "tenant", "number", "objects", "size"]
        assert [line.split()[:3] for line in planned[1:-1]] == [
            ["job", "acme", "1"],
            ["picture", "acme", "1"],
        ]
        assert planned[-1].endswith("kB would be freed")
        with monkeypatch.context() as patch:
            patch.setattr(farm.__main__, "_farm_of", from_a_store)
            patch.setenv("FARM_KEEP_BYTES", "0")
            assert await run("gc", "--dry-run", "--store", str(tmp_path)) == 0
        assert capsys.readouterr().out.splitlines() == planned
        assert await run("gc") == 0
        assert capsys.readouterr().out.splitlines()[:-1] == planned[:-1]
        assert await run("show", job) == 1

    operate(test, keep_bytes=0)
