"""Requests to the web: which URLs are taken, what is sent, and which address gets it."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

import farm.net.outbound
from farm.errors import OutboundError
from farm.net.outbound import addresses_of, fetch, is_private_literal, parse_url, post
from farm.net.resolver import Resolver
from tests.support.web_host import PICTURE, Host, Names


class Known(Resolver):
    """A resolver that knows every name."""

    def __init__(self, *addresses: str) -> None:
        super().__init__()
        self.known, self.asked = list(addresses), list[str]()

    async def addresses(self, name: str) -> list[str]:
        self.asked.append(name)
        return self.known


def got(url: str, limit: int = 2**20, *, host: str = "127.0.0.1") -> bytes:
    return asyncio.run(fetch(url, (host,), limit, allow_private=True))


@contextmanager
def silent_address(address: str, port: int) -> Iterator[None]:
    """An address that takes no connection and refuses none: its queue is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((address, port))
        listener.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            with suppress(BlockingIOError):
                waiting.connect((address, port))
        yield


@pytest.mark.parametrize(
    "url",
    [
        *("http://a.example", "https://a.example/b?c=d", "HTTP://A.EXAMPLE:1/", "http://[::1]:80/"),
        "http://a.example:65535/",
    ],
)
def test_urls_of_the_web_are_taken(url: str) -> None:
    assert str(parse_url(url)).lower().startswith(url.partition(":")[0].lower())


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://u@a.example/", "the URL may not contain a user name or a password"),
        ("http://:w@a.example/", "the URL may not contain a user name or a password"),
        ("http://a.example:65536/", "there is no port 65536"),
        ("http://a.example:0/", "there is no port 0"),
        ("http://a.example:-1/", "there is no port -1"),
        ("ftp://a", "not a URL of the web, as https://host/path; got 'ftp://a'"),
        ("x" * 90, f"not a URL of the web, as https://host/path; got {'x' * 80!r}"),
    ],
)
def test_a_refusal_says_what_is_wrong_with_a_url(url: str, message: str) -> None:
    with pytest.raises(OutboundError) as caught:
        parse_url(url)
    assert str(caught.value) == message


@pytest.mark.parametrize("port", ["x", "1e3"])
def test_a_port_that_is_no_number_makes_no_url(port: str) -> None:
    with pytest.raises(OutboundError, match=r"^not a URL: ."):
        parse_url(f"http://a.example:{port}/")


@pytest.mark.parametrize(
    ("name", "private"),
    [
        *((name, True) for name in ("localhost", "localhost.", "a.localhost", "a.b.localhost..")),
        *((name, False) for name in ("localhost.example", "xlocalhost", "a.example", "8.8.8.8")),
        *(("10.0.0.1", True), ("[fd00::1]", True), ("[2606:4700::1111]", False)),
    ],
)
def test_names_that_need_no_lookup_to_be_refused(name: str, private: bool) -> None:
    assert is_private_literal(parse_url(f"http://{name}/")) == private


def test_a_host_without_a_public_address_is_told_with_all_it_has() -> None:
    url, inside = parse_url("http://a.example/"), Known("10.0.0.1", "fd00::1")
    with pytest.raises(OutboundError) as caught:
        asyncio.run(addresses_of(url, False, inside))
    message = "a.example is at 10.0.0.1, fd00::1, which is no public address"
    assert str(caught.value) == message
    assert asyncio.run(addresses_of(url, True, inside)) == ["10.0.0.1", "fd00::1"]
    with pytest.raises(OutboundError, match="is at no:address, which is no public address"):
        asyncio.run(addresses_of(url, False, Known("no:address")))
    mixed = Known("10.0.0.1", "8.8.8.8", "1.1.1.1")
    assert asyncio.run(addresses_of(url, False, mixed)) == ["8.8.8.8", "1.1.1.1"]


def test_a_fetch_says_who_asks_and_wants_nothing_packed(host: Host) -> None:
    sent = got(f"{host.url}/headers").decode().lower().splitlines()
    assert "user-agent: svd-render-farm" in sent
    assert "accept-encoding: identity" in sent


def test_a_post_sends_its_body_and_headers_and_asks_its_senders_resolver(host: Host) -> None:
    own, url = Known("127.0.0.1"), f"http://a.example:{host.port}/signed/mine"
    for signature, status in (("mine", 200), ("other", 400)):
        sent = post(url, b"body", {"Signature": signature}, True, own)
        assert asyncio.run(sent) == status
    assert asyncio.run(post(url, b"other", {"Signature": "mine"}, True, own)) == 400
    assert own.asked == ["a.example"] * 3


def test_a_body_of_unknown_length_is_taken_up_to_the_limit(host: Host) -> None:
    assert got(f"{host.url}/short/1000", 1000) == bytes(1000)
    with pytest.raises(OutboundError, match=r"^127\.0\.0\.1 sends more than 999 bytes$"):
        got(f"{host.url}/short/1000", 999)


def test_a_body_that_is_announced_as_too_long_is_not_waited_for(host: Host) -> None:
    with pytest.raises(OutboundError, match=r"^127\.0\.0\.1 sends more than 10 bytes$"):
        got(f"{host.url}/announced/11", 10)
    with pytest.raises(
        OutboundError, match=r"^127\.0\.0\.1: "
    ):  # it may be 10, but they never come
        got(f"{host.url}/announced/10", 10)


def test_private_addresses_are_allowed_only_to_those_who_ask_for_them(host: Host) -> None:
    with pytest.raises(OutboundError, match="which is no public address"):
        asyncio.run(fetch(f"{host.url}/picture", ("127.0.0.1",), 2**20))
    assert not host.asked


def test_a_silent_address_is_passed_over(
    names: Names, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(farm.net.outbound, "CONNECT_S", 0.3)
    names.answers["two.example"] = [["127.0.0.7", "127.0.0.1"]]
    names.answers["one.example"] = [["127.0.0.7"]]
    with silent_address("127.0.0.7", host.port):
        picture = got(f"http://two.example:{host.port}/picture", host="two.example")
        assert picture == PICTURE
        with pytest.raises(OutboundError, match=r"^one\.example: ConnectTimeout$"):
            got(f"http://one.example:{host.port}/picture", host="one.example")


def test_an_answer_of_the_first_of_two_addresses_is_not_read_beyond_the_limit(
    names: Names, host: Host
) -> None:
    names.answers["two.example"] = [["127.0.0.1", "127.0.0.7"]]
    with pytest.raises(OutboundError, match="sends more than 10 bytes"):
        got(f"http://two.example:{host.port}/endless", 10, host="two.example")


def test_an_answer_may_take_longer_than_a_connection(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(farm.net.outbound, "CONNECT_S", 0.3)
    with pytest.raises(OutboundError, match="disconnected"):  # after a second, by the host
        asyncio.run(post(f"{host.url}/silent", b"", {}, True))
