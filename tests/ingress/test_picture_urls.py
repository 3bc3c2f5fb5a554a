"""Pictures by URL over HTTP: fetched from allowed hosts, and otherwise refused with a reason."""

import asyncio
import json
import socket
from collections.abc import Iterator
from functools import partial
from typing import Any

import httpx2
import pytest

import farm.ingress.bodies.body
from farm.errors import QueueFullError, RequestError
from farm.ingress.app import make_app
from farm.net.outbound import fetch
from farm.settings import Settings, load_settings
from tests.support.web_host import PICTURE, Host, Names, a_host

HERE = ("127.0.0.1",)


@pytest.fixture
def host() -> Iterator[Host]:
    with a_host() as host:
        yield host


class Caught:
    """A farm that takes nothing on, and keeps what it was given."""

    picture: bytes | None = None

    async def submit(self, _: Any, picture: bytes) -> Any:
        self.picture = picture
        raise QueueFullError("full", 1.0)


def asked_over_http(settings: Settings, **body: Any) -> tuple[int, Any, bytes | None]:
    caught = Caught()

    async def ask() -> httpx2.Response:
        app: Any = make_app(caught, settings)  # type: ignore[arg-type]
        transport = httpx2.ASGITransport(app, client=("127.0.0.1", 1))
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.post("/v1/videos", json={"model": "tiny", **body})

    answer = asyncio.run(ask())
    return answer.status_code, answer.json()["error"], caught.picture


FORMS = [
    ("input_reference", lambda url: {"input_reference": url}),
    ("input_reference[image_url]", lambda url: {"input_reference": {"image_url": url}}),
    ("image_url", lambda url: {"image_url": url}),
    ("image_reference", lambda url: {"image_reference": json.dumps({"image_url": url})}),
]


@pytest.mark.parametrize(("param", "form"), FORMS)
def test_pictures_by_url(
    param: str, form: Any, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed, opened = Settings(), Settings(picture_hosts=("a.example", "127.0.0.1"))
    names = Names()
    monkeypatch.setattr(socket, "getaddrinfo", names)
    names.answers["a.example"] = [["127.0.0.1"]]
    for settings, url, words in (
        (closed, f"{host.url}/picture", "its operator may set FARM_PICTURE_HOSTS"),
        (opened, f"http://a.example:{host.port}/picture", "is at 127.0.0.1, which is no public"),
        (opened, f"HTTP://127.0.0.1:{host.port}/picture", "is at 127.0.0.1, which is no public"),
        (opened, "https://b.example/x.png", "b.example is not among the hosts"),
        (opened, "ftp://a.example/x.png", "data URL"),
    ):
        status, error, picture = asked_over_http(settings, **form(url))
        assert (status, error["param"], picture) == (400, param, None)
        assert error["message"].startswith(f"{param}: ")
        assert words in error["message"]
    assert not host.asked
    monkeypatch.setattr(farm.ingress.bodies.body, "fetch", partial(fetch, allow_private=True))
    status, error, picture = asked_over_http(opened, **form(f"{host.url}/picture"))
    assert (status, error["code"], picture) == (429, "queue_full", PICTURE)
    status, error, _ = asked_over_http(opened, **form(f"{host.url}/cut"))
    assert (status, error["param"]) == (400, param)


def test_a_picture_given_twice_is_not_fetched(host: Host) -> None:
    settings = Settings(picture_hosts=HERE)
    url = f"{host.url}/picture"
    status, error, _ = asked_over_http(settings, input_reference=url, image_url=url)
    assert (status, error["message"]) == (400, "image_url: the picture is given twice")


@pytest.mark.parametrize("value", ["https://a.example", "*", "a.example/x", "*.", "", "[::1]"])
def test_settings_of_hosts(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARM_PICTURE_HOSTS", json.dumps(["A.example", "*.b.example"]))
    assert load_settings().picture_hosts == ("a.example", "*.b.example")
    monkeypatch.setenv("FARM_PICTURE_HOSTS", json.dumps([value]))
    with pytest.raises(RequestError, match=r"FARM_PICTURE_HOSTS\[0\]: .*give host names, like"):
        load_settings()
