"""A front door writes pictures to the store itself; through the coordinator goes their digest."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from farm.client.proxy import WRITES, FarmProxy
from farm.errors import PictureMissingError, StoreError
from farm.ingress.app import make_app
from farm.model.job import Submission
from farm.model.request import digest_of
from farm.store import open_store
from farm.store.keys import picture_key
from tests.support.asgi import client, settings_of
from tests.support.farm_jobs import picture_bytes
from tests.support.inline_farm import coordinator, inline

__all__ = ["inline"]

PICTURE = picture_bytes()
DIGEST = digest_of(PICTURE)
ASKED = {"num_frames": "2", "width": "32", "height": "16"}


class Calls:
    """Calls of a coordinator, with what each was given."""

    def __init__(self, farm: Any) -> None:
        self.farm = farm
        self.made: list[tuple[str, tuple[Any, ...]]] = []

    async def __call__(self, method: str, *arguments: Any) -> Any:
        self.made.append((method, arguments))
        return await getattr(self.farm, method)(*arguments)

    @property
    def submits(self) -> int:
        return sum(method == "submit_stored" for method, _ in self.made)


def test_a_picture_goes_from_the_door_to_the_store(tmp_path: Path, inline: Any) -> None:
    store = open_store((tmp_path / "store").as_uri())

    async def work() -> None:
        async with coordinator(tmp_path / "store") as farm:
            calls = Calls(farm)
            files = {"input_reference": ("a.png", PICTURE)}
            async with client(make_app(FarmProxy(calls), settings_of())) as http:
                checked = await http.post("/v1/videos/check", files=files, data=ASKED)
                assert checked.status_code == 200, checked.text
                assert not store.exists(picture_key(DIGEST))
                for seed, submits in (("1", 2), ("2", 3)):  # the second time it is there already
                    answer = await http.post("/v1/videos", files=files, data=ASKED | {"seed": seed})
                    assert answer.status_code == 200, answer.text
                    assert calls.submits == submits
                stored = store.get(picture_key(DIGEST))
                assert stored is not None
                assert stored.data == PICTURE
                given = [value for _, arguments in calls.made for value in arguments]
                assert not [value for value in given if isinstance(value, bytes)]
                refused = await http.post("/v1/videos", files=files, data={"model": "none"})
                assert refused.status_code == 400
                for video in (await http.get("/v1/videos")).json()["data"]:
                    await http.post(f"/v1/videos/{video['id']}/cancel")
                    assert (await http.delete(f"/v1/videos/{video['id']}")).status_code == 200
                assert not store.exists(picture_key(DIGEST))

    asyncio.run(asyncio.wait_for(work(), 60))


def test_a_submission_that_is_refused_writes_no_picture(tmp_path: Path, inline: Any) -> None:
    async def work() -> None:
        async with coordinator(tmp_path / "store", max_jobs=1) as farm:
            http_farm = FarmProxy(Calls(farm))
            app = make_app(http_farm, settings_of())
            async with client(app) as http:
                files = {"input_reference": ("a.png", picture_bytes(seed=1))}
                long = ASKED | {"num_inference_steps": "1000000"}
                answer = await http.post("/v1/videos", files=files, data=long)
                assert answer.status_code == 400, answer.text
        assert not list((tmp_path / "store").glob("pictures/*"))

    asyncio.run(asyncio.wait_for(work(), 60))


def test_the_same_key_is_the_same_job_though_the_picture_came_late(
    tmp_path: Path, inline: Any
) -> None:
    async def work() -> None:
        async with coordinator(tmp_path / "store") as running:
            farm = FarmProxy(Calls(running))
            params = {"num_frames": 2, "width": 32, "height": 16}
            first, second = [
                await farm.submit(Submission(params=params, idempotency_key="one"), PICTURE)
                for _ in range(2)
            ]
            assert first.job.id == second.job.id

    asyncio.run(asyncio.wait_for(work(), 60))


def test_a_picture_that_never_stays_is_told(tmp_path: Path) -> None:
    attempts = list[str]()
    store = open_store(tmp_path.as_uri())

    async def missing(method: str, *_: Any) -> Any:
        if method == "ready":
            return {"store": store.url, "store_id": "mine", "max_pixels": 10**6}
        attempts.append(method)
        raise PictureMissingError("it was deleted")

    store.put("store.json", b'{"id": "mine"}')
    with pytest.raises(StoreError, match="deleted each time it is written"):
        asyncio.run(FarmProxy(missing).submit(Submission(), PICTURE))
    assert attempts == ["submit_stored"] * WRITES
