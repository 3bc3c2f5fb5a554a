"""Receivers that hang and names that cannot be resolved do not delay other webhooks."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from farm.background import Background
from farm.clock import FarmClock
from farm.coordinator.webhooks import AT_ONCE, SLOW_AT_ONCE, Lanes, Webhooks
from farm.errors import OutboundError
from farm.metrics.meter import Unmetered
from farm.net.resolver import Resolver, literal
from farm.settings import load_settings
from farm.store import open_store
from tests.support.receiver import SECRET, Receiver, ended

GENEROUS_S = 8.0  # a hang is 10 s at least; a delivery takes milliseconds


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a host that takes connections on any address here, and says nothing."""
    with socket.create_server(("", 0), backlog=4096) as server:
        yield server.getsockname()[1]


def delivered_s(folder: Path, receiver: Receiver, urls: list[str], tenant: str) -> float:
    """Seconds until a good receiver is told, of the same tenant or another, behind many others."""

    async def run() -> float:
        settings = load_settings(webhook_secret=SECRET, webhook_private=True)
        webhooks = Webhooks(
            settings, open_store(folder.as_uri()), Background(8), FarmClock(), Unmetered()
        )
        loop = asyncio.create_task(webhooks.deliver())
        jobs = [ended(id=f"job-{n}", tenant="floods") for n in range(len(urls))]
        for job, url in zip(jobs, urls, strict=True):
            await webhooks.add(job.model_copy(update={"webhook_url": url}))
        await asyncio.sleep(0.5)  # they are being tried
        good = ended(id="good", tenant=tenant).model_copy(update={"webhook_url": receiver.url})
        began = time.monotonic()
        await webhooks.add(good)
        while not receiver.received and time.monotonic() - began < 2 * GENEROUS_S:
            await asyncio.sleep(0.02)
        loop.cancel()
        return time.monotonic() - began

    return asyncio.run(run())


@pytest.mark.parametrize("tenant", ["floods", "other"])
def test_hosts_that_hang_delay_no_good_one(
    tmp_path: Path, receiver: Receiver, silent: int, tenant: str
) -> None:
    urls = [f"http://127.0.1.{n}:{silent}/" for n in range(1, 151)]
    urls += [f"http://127.0.2.{n}:{silent}/" for n in range(1, 151)]
    assert delivered_s(tmp_path, receiver, urls, tenant) < GENEROUS_S


@pytest.mark.parametrize("tenant", ["floods", "other"])
def test_names_that_hang_delay_no_good_one(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, tenant: str
) -> None:
    go, real = threading.Event(), socket.getaddrinfo

    def look_up(name: Any, *arguments: Any, **options: Any) -> Any:
        if str(name).endswith("hangs.example"):
            go.wait(60)
            raise socket.gaierror("no answer")
        return real(name, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    # A name, so that the good one has to be looked up as well.
    receiver.url = receiver.url.replace("127.0.0.1", "localhost")
    urls = [f"http://{n}.hangs.example/" for n in range(60)]
    try:
        assert delivered_s(tmp_path, receiver, urls, tenant) < GENEROUS_S
    finally:
        go.set()


def test_hosts_that_did_not_answer_have_few_slots() -> None:
    async def run() -> None:
        lanes, inside, go = Lanes(), 0, asyncio.Event()
        for number in range(100):
            with pytest.raises(OutboundError):
                async with lanes.slot(f"down-{number}.example"):
                    raise OutboundError("no answer")

        async def hold(host: str) -> None:
            nonlocal inside
            async with lanes.slot(host):
                inside += 1
                await go.wait()

        tries = [asyncio.create_task(hold(f"down-{number}.example")) for number in range(100)]
        await asyncio.sleep(0.05)
        assert inside == SLOW_AT_ONCE
        tries += [asyncio.create_task(hold(f"new-{number}.example")) for number in range(AT_ONCE)]
        await asyncio.sleep(0.2)
        assert inside == SLOW_AT_ONCE + AT_ONCE
        go.set()
        await asyncio.gather(*tries)
        async with asyncio.timeout(5), lanes.slot("down-1.example"):
            assert "down-1.example" not in lanes._slow_hosts  # it answered meanwhile

    asyncio.run(run())


def test_addresses_are_not_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("looked up")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for name, address in (
        ("127.0.0.1", "127.0.0.1"),
        ("0x7f.1", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.1"),
    ):
        assert asyncio.run(Resolver().addresses(name)) == [address]
    assert literal("receiver.example") is None


def test_a_resolver_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    go, asked = threading.Event(), list[str]()

    def look_up(name: str, *_: Any, **__: Any) -> Any:
        asked.append(name)
        if name != "quick.example":
            go.wait(60)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr("farm.net.resolver.LOOKUP_S", 0.1)

    async def run() -> None:
        resolver = Resolver(most=3)
        for name in ("a.example", "a.example", "b.example"):
            with pytest.raises(OutboundError, match=rf"{name} cannot be looked up within 0\.1 s"):
                await resolver.addresses(name)
        assert asked == ["a.example", "b.example"]  # the second asks what the first does
        assert await resolver.addresses("quick.example") == ["192.0.2.1"]
        with pytest.raises(OutboundError, match="within"):
            await resolver.addresses("c.example")
        with pytest.raises(OutboundError, match="3 other hosts are being looked up"):
            await resolver.addresses("d.example")
        assert await Resolver().addresses("quick.example") == ["192.0.2.1"]
        go.set()
        async with asyncio.timeout(10):
            while resolver._under_way:
                await asyncio.sleep(0.01)
        assert await resolver.addresses("d.example") == ["192.0.2.1"]

    try:
        asyncio.run(run())
    finally:
        go.set()
