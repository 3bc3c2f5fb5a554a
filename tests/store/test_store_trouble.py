"""A full disk, a store that vanishes, a server that hangs: calls end with a reason."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from farm.coordinator.coordinator import Coordinator
from farm.errors import StoreError
from farm.ingress.errors import api_error
from farm.model.job import State, Submission
from farm.model.request import Model, ModelFacts
from farm.settings import load_settings
from farm.store import identify, open_store
from farm.store.s3 import S3Store
from svd_engine import RenderParams
from svd_engine.params import RenderDefaults
from tests.support.farm_jobs import SMALL, picture_bytes
from tests.support.inline_farm import InlineRuntime
from tests.support.small_disk import SmallDisk, small_disk

LIMIT_S = 30.0  # generous: the calls end after 3 to 15 s
FACTS = ModelFacts(digest="0" * 64, defaults=RenderDefaults(width=64, height=48, num_frames=5))
ASKED = {"model": Model(name="tiny"), "params": RenderParams(**SMALL)}


class AnyModel:
    async def facts(self, model: Model, tenant: str = "") -> ModelFacts:
        return FACTS


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    try:
        with small_disk(tmp_path / "disk", megabytes=1) as disk:
            yield disk
    except PermissionError as error:
        pytest.skip(str(error))


def with_coordinator(
    store: str, store_id: str, work: Callable[[Coordinator], Awaitable[None]]
) -> None:
    async def run() -> None:
        runtime = InlineRuntime(working=False, models=lambda *_: AnyModel())
        coordinator = Coordinator(load_settings(store=store), "none", store_id, runtime)
        try:
            await work(coordinator)
        finally:
            await coordinator._background.cancel_all()
        assert not runtime.failures

    asyncio.run(run())


async def refused(call: Awaitable[Any]) -> StoreError:
    began = time.monotonic()
    with pytest.raises(StoreError) as caught:
        await asyncio.wait_for(call, LIMIT_S)
    assert time.monotonic() - began < LIMIT_S
    return caught.value


async def until(condition: Callable[[], Awaitable[Any]]) -> None:
    for _ in range(int(LIMIT_S / 0.2)):
        if await condition():
            return
        await asyncio.sleep(0.2)
    raise AssertionError("it does not come about")


def test_a_full_disk(disk: SmallDisk) -> None:
    store = str(disk.folder)

    async def work(coordinator: Coordinator) -> None:
        asked = Submission(**ASKED)
        job = (await coordinator.submit(asked, picture_bytes())).job.id
        disk.fill()
        error = await refused(coordinator.pause(job))
        assert "No space left" in str(error)
        shown = api_error(error)
        assert "No space left" in shown.message
        assert store not in shown.message

        async def troubled() -> bool:
            return bool((await coordinator.status())["trouble"])

        await until(troubled)
        for call in (
            coordinator.submit(Submission(**ASKED), picture_bytes(seed=1)),
            coordinator.cancel(job),
        ):
            assert "No space left" in str(await refused(call))
        assert (await coordinator.show(job)).job.id == job  # what is in memory is still told
        disk.empty()

        async def recorded() -> bool:
            return (await coordinator.show(job)).job.state is State.PAUSED

        await until(recorded)

        async def well() -> bool:
            return not await troubled()

        await until(well)
        await coordinator.submit(Submission(**ASKED), picture_bytes(seed=1))

    with_coordinator(store, identify(open_store(store)), work)


@pytest.mark.parametrize("emptied", [False, True])
def test_a_folder_that_vanishes_under_the_farm(emptied: bool, tmp_path: Path) -> None:
    folder, away = tmp_path / "store", tmp_path / "away"

    async def work(coordinator: Coordinator) -> None:
        job = (await coordinator.submit(Submission(**ASKED), picture_bytes())).job.id
        folder.rename(away)
        if emptied:  # as a mount that is gone
            folder.mkdir()
        error = await refused(coordinator.submit(Submission(**ASKED), picture_bytes(seed=1)))
        assert "Bring the folder" in str(error)
        await refused(coordinator.events(job))

        async def troubled() -> bool:
            return bool((await coordinator.status())["trouble"])

        await until(troubled)
        await asyncio.sleep(2.5)  # in which it writes its logs, and renews its lease
        assert not folder.exists() or not list(folder.iterdir())
        if emptied:
            folder.rmdir()
        away.rename(folder)

        async def well() -> bool:
            return not await troubled()

        await until(well)
        await coordinator.pause(job)
        await coordinator.submit(Submission(**ASKED), picture_bytes(seed=1))

    with_coordinator(str(folder), identify(open_store(str(folder))), work)


@pytest.fixture
def hung(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An S3 server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as listener:
        for name, value in {
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{listener.getsockname()[1]}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "no_proxy": "127.0.0.1",
        }.items():
            monkeypatch.setenv(name, value)
        yield "s3://farm/prefix"


def test_a_server_that_hangs(hung: str) -> None:
    store, began = S3Store(hung, patience_s=1), time.monotonic()
    with pytest.raises(StoreError, match="nobody answers") as caught:
        store.get("a")
    assert time.monotonic() - began < 10
    assert api_error(caught.value).message.startswith("the farm's store: its server does not")


def test_a_farm_whose_server_hangs_says_so(hung: str) -> None:
    async def work(coordinator: Coordinator) -> None:
        for call in (
            coordinator.ready(),
            coordinator.submit(Submission(**ASKED), picture_bytes()),
            coordinator.jobs(),
            coordinator.status(),
        ):
            assert "nobody answers" in str(await refused(call))

    with_coordinator(hung, "0" * 32, work)
