"""Keys of a file: what is changed there holds without a restart."""

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any, cast

import pytest

from farm.errors import RequestError
from farm.ingress.access.authentication import check_host
from farm.ingress.access.keys import LOOK_S, Keys
from farm.ingress.app import make_app
from farm.model.farm_api import FarmApi
from farm.settings import Key, Settings
from tests.support.asgi import StillFarm, Stream, client

SESAME, OPEN = (hashlib.sha256(key).hexdigest() for key in (b"sesame", b"open"))


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def write(file: Path, **tenants: Any) -> None:
    """As an operator should: whole, at once."""
    names = {"sesame": SESAME, "open": OPEN}
    other = file.with_suffix(".new")
    other.write_text(json.dumps({names[key]: value for key, value in tenants.items()}))
    other.replace(file)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write(tmp_path / "keys.json", sesame={"tenant": "acme"})
    return tmp_path / "keys.json"


def test_keys_come_change_and_go(file: Path) -> None:
    clock = Clock()
    keys = Keys(Settings(keys_file=file), clock)
    assert (keys.find(SESAME), keys.find(OPEN)) == (Key(tenant="acme"), None)
    write(file, sesame={"tenant": "other", "operator": True}, open={"tenant": "other"})
    clock.now += LOOK_S
    assert keys.find(SESAME) == Key(tenant="other", operator=True)
    assert keys.find(OPEN) == Key(tenant="other")
    write(file)
    clock.now += LOOK_S
    assert (keys.find(SESAME), keys.find(OPEN)) == (None, None)
    assert keys.needed  # nobody may ask: that is not to say that everybody may


@pytest.mark.parametrize("text", ["", "{", "[]", '{"sesame": {"tenant": "acme"}}', None])
def test_a_file_that_cannot_be_read_changes_nothing(file: Path, text: str | None) -> None:
    clock = Clock()
    keys = Keys(Settings(keys_file=file), clock)
    file.unlink()
    if text is not None:
        file.write_text(text)
    for _ in range(3):
        clock.now += LOOK_S
        assert keys.find(SESAME) == Key(tenant="acme")
    with pytest.raises(RequestError, match=f"FARM_KEYS_FILE: {file}: "):
        Keys(Settings(keys_file=file))
    write(file)
    clock.now += LOOK_S
    assert keys.find(SESAME) is None


def test_one_place_has_the_keys(file: Path) -> None:
    with pytest.raises(RequestError, match="FARM_KEYS and FARM_KEYS_FILE: give one of them"):
        Keys(Settings(keys={OPEN: Key(tenant="acme")}, keys_file=file))
    check_host("0.0.0.0", Settings(keys_file=file))
    assert not Keys(Settings()).needed


def test_a_key_that_is_taken_back_ends_its_streams(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("access.keys", "openai.events"):
        monkeypatch.setattr(f"farm.ingress.{module}.LOOK_S", 0.05)

    async def test() -> None:
        app = make_app(cast("FarmApi", StillFarm()), Settings(keys_file=file))
        async with client(app) as http, client(app, "") as nobody:
            assert (await http.get("/v1/videos")).status_code == 200
            assert (await nobody.get("/v1/videos")).status_code == 401
            stream = await Stream().open(app, "/v1/videos/acme/events", "sesame")
            assert stream.status == 200
            write(file, open={"tenant": "acme"})
            await asyncio.wait_for(stream.ended(), 10)
            answer = await http.get("/v1/videos")
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
            write(file)
            await asyncio.sleep(0.1)
            assert (await nobody.get("/v1/videos")).status_code == 401

    asyncio.run(asyncio.wait_for(test(), 60))


def test_how_often_a_key_may_ask_changes_too(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("farm.ingress.access.keys.LOOK_S", 0.0)
    write(file, sesame={"tenant": "acme", "per_minute": 0.001})

    async def test() -> None:
        async with client(make_app(cast("FarmApi", StillFarm()), Settings(keys_file=file))) as http:
            assert [(await http.get("/v1/models")).status_code for _ in range(3)] == [200, 429, 429]
            write(file, sesame={"tenant": "acme", "per_minute": 6000})
            assert [(await http.get("/v1/models")).status_code for _ in range(3)] == [200] * 3

    asyncio.run(test())
