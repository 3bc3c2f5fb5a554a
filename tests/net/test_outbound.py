"""Requests to the web: which addresses are allowed, and protection against malicious hosts."""

import asyncio
import ssl
from pathlib import Path

import pytest

import farm.net.outbound
from farm.errors import OutboundError
from farm.net.outbound import fetch, is_private_literal, is_public, parse_url, post
from tests.support.certificates import write_certificate
from tests.support.web_host import PICTURE, Host, Names, a_host

LIMIT = 2**20
HERE = ("127.0.0.1",)


def got(url: str, hosts: tuple[str, ...] = HERE, *, allow_private: bool = True) -> bytes:
    return asyncio.run(fetch(url, hosts, LIMIT, allow_private))


PUBLIC = """8.8.8.8 93.184.215.14 100.128.0.1 2606:4700::1111 2a00:1450::1
    ::ffff:8.8.8.8 64:ff9b::8.8.8.8"""
PRIVATE = """127.0.0.1 127.255.255.254 0.0.0.0 10.0.0.1 172.16.0.1 172.31.255.255 192.168.0.1
    169.254.169.254 100.64.0.1 100.100.100.200 192.0.0.192 168.63.129.16 192.0.2.1 198.18.0.1
    203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 192.88.99.1
    ::1 :: fe80::1 fe80::1%eth0 fc00::1 fd00:ec2::254 fec0::1 ff02::1 ff0e::1 2001:db8::1
    ::ffff:127.0.0.1 ::ffff:169.254.169.254 ::ffff:10.0.0.1 ::127.0.0.1
    64:ff9b::127.0.0.1 64:ff9b::a9fe:a9fe 64:ff9b:1::8.8.8.8 2002:7f00:1:: 2002:808:808::
    2001:0:808:808::1 100::1 4000::1"""


@pytest.mark.parametrize("address", PUBLIC.split())
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", PRIVATE.split())
def test_addresses_that_are_not(address: str) -> None:
    assert not is_public(address)


SPELLINGS = """127.0.0.1 0x7f.1 2130706433 0177.1 127.1 0x7f000001 0 localhost LOCALHOST
    [::1] [::ffff:127.0.0.1] [::ffff:7f00:1] [0:0:0:0:0:0:0:1] [64:ff9b::7f00:1]"""


@pytest.mark.parametrize("name", [*SPELLINGS.split(), "127\u30020\u30020\u30021"])
def test_this_machine_by_any_spelling(name: str, host: Host) -> None:
    url = f"http://{name}:{host.port}/picture"
    parsed = parse_url(url)
    assert is_private_literal(parsed)
    with pytest.raises(OutboundError, match="which is no public address"):
        got(url, (parsed.host,), allow_private=False)
    with pytest.raises(OutboundError, match="which is no public address"):
        asyncio.run(post(url, b"", {}))
    assert not host.asked


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("file:///etc/passwd", "not a URL of the web"),
        ("ftp://127.0.0.1/x", "not a URL of the web"),
        ("//127.0.0.1/x", "not a URL of the web"),
        ("http:///x", "not a URL of the web"),
        ("http://user:word@127.0.0.1/x", "a user name or a password"),
        ("http://127.0.0.1:99999/", "no port 99999"),
        ("http://[::1/", "not a URL"),
        ("http://127.0.0.1/\n", "not a URL"),
        ("http://0177.0.0.1/", "not a URL"),
        ("http://\ud800/", "not a URL"),
        ("http://" + "a" * 70 + ".example/", "not a URL|cannot be looked up"),
        ("http://a..example/", "not a URL|cannot be looked up"),
        ("http://[fe80::1%25nowhere]/", "cannot be looked up|fe80::1"),
    ],
)
def test_urls_that_are_none(url: str, words: str) -> None:
    hosts = ("127.0.0.1", "a..example", "a" * 70 + ".example", "fe80::1%25nowhere")
    with pytest.raises(OutboundError, match=words):
        got(url, hosts)


def test_a_picture_is_fetched(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")  # would look names up by itself
    assert got(f"{host.url}/picture") == PICTURE
    assert host.asked == [("/picture", f"127.0.0.1:{host.port}")]


def test_only_from_hosts_that_are_named(names: Names, host: Host) -> None:
    for name in ("a.example", "b.a.example", "example", "xexample", "example.org"):
        names.answers[name] = [["127.0.0.1"]]
    allowed = ("*.example", "xexample")
    for name in ("a.example", "b.a.example", "xexample", "A.Example"):
        assert got(f"http://{name}:{host.port}/picture", allowed) == PICTURE
    for name in ("example", "example.org", "127.0.0.1", "a.example."):
        with pytest.raises(OutboundError, match="not among the hosts"):
            got(f"http://{name}:{host.port}/picture", allowed)


def test_the_name_is_looked_up_once(
    names: Names, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a name server says after the check does not count."""
    monkeypatch.setattr(farm.net.outbound, "is_public", lambda address: address == "127.0.0.2")
    names.answers["rebinds.example"] = [["127.0.0.2"], ["127.0.0.1"]]
    url = f"http://rebinds.example:{host.port}/picture"
    with a_host("127.0.0.2", host.port) as public:
        assert got(url, ("rebinds.example",), allow_private=False) == PICTURE
        assert public.asked == [("/picture", f"rebinds.example:{host.port}")]
        with pytest.raises(OutboundError, match=r"rebinds.example is at 127\.0\.0\.1"):
            got(url, ("rebinds.example",), allow_private=False)
        names.answers["mixed.example"] = [["127.0.0.1", "127.0.0.2"]]
        url = url.replace("rebinds", "mixed")
        assert got(url, ("mixed.example",), allow_private=False) == PICTURE
    assert not host.asked
    assert names.asked == ["rebinds.example", "rebinds.example", "mixed.example"]


def test_the_next_address_is_asked_where_one_is_down(names: Names, host: Host) -> None:
    names.answers["two.example"] = [["127.0.0.3", "127.0.0.1"]]
    assert got(f"http://two.example:{host.port}/picture", ("two.example",)) == PICTURE
    names.answers["two.example"] = [["127.0.0.3", "127.0.0.4"]]
    with pytest.raises(OutboundError, match=r"two\.example: "):
        got(f"http://two.example:{host.port}/picture", ("two.example",))


def test_redirects(names: Names, host: Host) -> None:
    assert got(f"{host.url}/times/3") == PICTURE
    with pytest.raises(OutboundError, match="more than 3 times"):
        got(f"{host.url}/times/4")
    for target, words in (
        ("http://other.example/x", "other.example is not among the hosts"),
        ("//169.254.169.254/latest", "169.254.169.254 is not among the hosts"),
        ("file:///etc/passwd", "not a URL of the web"),
        ("http://[::1/", "redirects to no URL|not a URL|127.0.0.1: "),
        ("http://127.0.0.1:99999/", "no port"),
    ):
        with pytest.raises(OutboundError, match=words):
            got(f"{host.url}/to/{target}")
    assert names.asked == ["127.0.0.1"] * len(names.asked)


def test_no_redirect_leads_to_a_private_address(
    names: Names, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(farm.net.outbound, "is_public", lambda address: address == "127.0.0.2")
    names.answers |= {"a.example": [["127.0.0.2"]], "inside.example": [["127.0.0.1"]]}
    hosts = ("*.example", "127.0.0.1")
    with a_host("127.0.0.2", host.port) as public:
        base = f"http://a.example:{host.port}"
        for target in (f"{host.url}/picture", f"http://inside.example:{host.port}/picture"):
            with pytest.raises(OutboundError, match=r"is at 127\.0\.0\.1, which is no public"):
                got(f"{base}/to/{target}", hosts, allow_private=False)
        assert got(f"{base}/to/{base}/picture", hosts, allow_private=False) == PICTURE
        assert len(public.asked) == 4
    assert not host.asked


def test_what_is_too_large(host: Host) -> None:
    assert asyncio.run(fetch(f"{host.url}/picture", HERE, len(PICTURE), True)) == PICTURE
    with pytest.raises(OutboundError, match=f"more than {len(PICTURE) - 1} bytes"):
        asyncio.run(fetch(f"{host.url}/picture", HERE, len(PICTURE) - 1, True))
    with pytest.raises(OutboundError, match=f"more than {LIMIT} bytes"):
        got(f"{host.url}/endless")
    assert len(got(f"{host.url}/packed")) < 2**14  # what is packed stays so


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("status/404", "answered 404"),
        ("status/500", "answered 500"),
        ("status/204", "answered 204"),
        ("status/304", "answered 304"),
        ("cut", "127.0.0.1: "),
        ("nonsense", "127.0.0.1: "),
        ("slow", "took more than 0.5 s"),
        ("silent", "took more than 0.5 s"),
    ],
)
def test_hosts_that_do_not_give_it(
    path: str, words: str, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(farm.net.outbound, "LIMIT_S", 0.5)
    with pytest.raises(OutboundError, match=words):
        got(f"{host.url}/{path}")


def test_a_post_follows_nothing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    assert asyncio.run(post(f"{host.url}/picture", b"{}", {}, True)) == 200
    assert asyncio.run(post(f"{host.url}/to/{host.url}/picture", b"{}", {}, True)) == 302
    assert [path for path, _ in host.asked] == ["/picture", f"/to/{host.url}/picture"]
    monkeypatch.setattr(farm.net.outbound, "LIMIT_S", 0.3)
    with pytest.raises(OutboundError, match=r"did not answer within 0\.3 s"):
        asyncio.run(post(f"{host.url}/silent", b"{}", {}, True))


def test_certificates_are_of_the_name(
    names: Names, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the connection goes to an address."""
    certificate, key = write_certificate(tmp_path, "right.example")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    asked: list[str | None] = []
    tls.sni_callback = lambda _, name, __: asked.append(name)
    names.answers |= {name: [["127.0.0.1"]] for name in ("right.example", "wrong.example")}
    hosts = ("right.example", "wrong.example", "127.0.0.1")
    farm.net.outbound._trust.cache_clear()
    with a_host(tls=tls) as host:
        urls = {name: f"https://{name}:{host.port}/picture" for name in hosts}
        with pytest.raises(OutboundError, match="certificate verify failed"):
            got(urls["right.example"], hosts)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        farm.net.outbound._trust.cache_clear()
        assert got(urls["right.example"], hosts) == PICTURE
        for name in ("wrong.example", "127.0.0.1"):
            with pytest.raises(OutboundError, match=r"not valid for|IP address mismatch"):
                got(urls[name], hosts)
        assert host.asked == [("/picture", f"right.example:{host.port}")]
    assert asked == ["right.example", "right.example", "wrong.example", None]
    farm.net.outbound._trust.cache_clear()
