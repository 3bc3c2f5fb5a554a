"""The one way out to the web: to addresses that were looked at, and that are public.

A name is looked up once, and the connection goes to the address that was checked: what a name
server says the next time does not count. With TLS, the certificate is still the name's.
"""

import asyncio
import functools
import ipaddress
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import httpx2 as httpx

from farm.errors import OutboundError
from farm.net.resolver import Resolver, literal

LIMIT_S = 10.0  # of a request, looking up its host and all redirects included
CONNECT_S = 5.0  # to one of a host's addresses
REDIRECTS = 3
# What Python calls global, and is not for strangers: IETF's own, where a cloud's metadata are too,
# relays of 6to4, and the host that Azure's machines have for themselves.
NOT_PUBLIC = tuple(map(IPv4Network, ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32")))
UNICAST = IPv6Network("2000::/3")
TUNNELS = tuple(map(IPv6Network, ("2001::/23", "2002::/16")))  # Teredo, 6to4: to any IPv4 address
NAT64 = IPv6Network("64:ff9b::/96")


def parse_url(text: str) -> httpx.URL:
    """The URL; OutboundError for one that is not of a host on the web."""
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError) as error:  # UnicodeError is a ValueError
        raise OutboundError(f"not a URL: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise OutboundError(f"not a URL of the web, as https://host/path; got {text[:80]!r}")
    if url.userinfo:
        raise OutboundError("a URL with a user or a password in it is not taken")
    if not 0 < (url.port or 443) < 2**16:
        raise OutboundError(f"there is no port {url.port}")
    return url


def is_public(address: str) -> bool:
    """Whether an IP address is one of the internet's; of one with an IPv4 address in it, whether
    that is.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address):
        mapped = IPv4Address(int(ip) % 2**32) if ip in NAT64 else ip.ipv4_mapped
        if mapped is None:
            return ip in UNICAST and ip.is_global and not any(ip in each for each in TUNNELS)
        ip = mapped
    return ip.is_global and not ip.is_multicast and not any(ip in each for each in NOT_PUBLIC)


def is_private_literal(url: httpx.URL) -> bool:
    """Whether the host is spelt as an address that is not public, or as this machine.

    All that can be said without asking a name server.
    """
    name = _name(url)
    if name.rstrip(".").rpartition(".")[2] == "localhost":
        return True
    address = literal(name)
    return address is not None and not _is_public(address)


def _is_public(address: str) -> bool:
    try:
        return is_public(address)
    except ValueError:  # an IPv6 address that is none
        return False


async def addresses_of(
    url: httpx.URL, allow_private: bool, resolver: Resolver | None = None
) -> list[str]:
    """Where the host is, at those of its addresses that may be asked; OutboundError for none."""
    addresses = await (resolver or _resolver()).addresses(_name(url))
    allowed = [each for each in addresses if allow_private or _is_public(each)]
    if not allowed:
        raise OutboundError(f"{url.host} is at {', '.join(addresses)}, which is no public address")
    return allowed


async def post(
    url: str,
    data: bytes,
    headers: Mapping[str, str],
    allow_private: bool = False,
    resolver: Resolver | None = None,
) -> int:
    """Send the data; the answer's status, whatever it is. OutboundError where there is none.

    resolver: the sender's own, so that names that hang keep nobody else from looking theirs up.
    """
    target = parse_url(url)
    try:
        async with (
            asyncio.timeout(LIMIT_S),
            _asked("POST", target, allow_private, headers, data, resolver) as answer,
        ):
            return answer.status_code
    except TimeoutError as error:
        raise OutboundError(f"{target.host} did not answer within {LIMIT_S:g} s") from error


async def fetch(url: str, hosts: Sequence[str], limit: int, allow_private: bool = False) -> bytes:
    """What is at the URL, at most `limit` bytes; OutboundError for anything else.

    hosts: that may be asked, by redirects too: `pictures.example`, or `*.example` for all below.
    """
    target = parse_url(url)
    try:
        async with asyncio.timeout(LIMIT_S):
            for _ in range(REDIRECTS + 1):
                found = await _fetch_once(target, hosts, limit, allow_private)
                if isinstance(found, bytes):
                    return found
                target = found
    except TimeoutError as error:
        raise OutboundError(f"{target.host} took more than {LIMIT_S:g} s") from error
    raise OutboundError(f"{parse_url(url).host} redirects more than {REDIRECTS} times")


async def _fetch_once(
    url: httpx.URL, hosts: Sequence[str], limit: int, allow_private: bool
) -> bytes | httpx.URL:
    """The bytes, or where they are said to be."""
    if not any(_is_of(_name(url), pattern) for pattern in hosts):
        raise OutboundError(f"{url.host} is not among the hosts that this farm asks")
    # What comes packed could be far larger than what was sent.
    async with _asked("GET", url, allow_private, {"Accept-Encoding": "identity"}) as answer:
        if answer.has_redirect_location:
            try:
                return parse_url(str(url.join(answer.headers["location"])))
            except (httpx.InvalidURL, ValueError) as error:
                raise OutboundError(f"{url.host} redirects to no URL") from error
        if answer.status_code != 200:
            raise OutboundError(f"{url.host} answered {answer.status_code}")
        told = answer.headers.get("content-length", "")
        data = bytearray()
        if not told.isdecimal() or int(told) <= limit:
            async for part in answer.aiter_raw():
                data += part
                if len(data) > limit:
                    break
            else:
                return bytes(data)
        raise OutboundError(f"{url.host} sends more than {limit} bytes")


@asynccontextmanager
async def _asked(
    method: str,
    url: httpx.URL,
    allow_private: bool,
    headers: Mapping[str, str],
    data: bytes | None = None,
    resolver: Resolver | None = None,
) -> AsyncIterator[httpx.Response]:
    """The host's answer, its body unread. OutboundError."""
    addresses = await addresses_of(url, allow_private, resolver)
    limits = httpx.Timeout(None, connect=CONNECT_S)
    try:
        # The environment's proxies would look the name up themselves.
        async with httpx.AsyncClient(verify=_trust(), trust_env=False, timeout=limits) as client:
            request = client.build_request(
                method,
                url,
                content=data,
                headers={"User-Agent": "svd-render-farm", **headers},
                extensions={"sni_hostname": _name(url)},  # what the certificate is held against
            )
            answer = await _send(client, request, addresses)
            try:
                yield answer
            finally:
                await answer.aclose()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise OutboundError(f"{url.host}: {str(error) or type(error).__name__}") from error


async def _send(
    client: httpx.AsyncClient, request: httpx.Request, addresses: Sequence[str]
) -> httpx.Response:
    """The answer from the first of the addresses that takes a connection."""
    name, (*others, last) = request.url, addresses
    for address in others:
        request.url = name.copy_with(host=address)  # its header `Host` stays the name
        with suppress(httpx.ConnectError, httpx.ConnectTimeout):
            return await client.send(request, stream=True)
    request.url = name.copy_with(host=last)
    return await client.send(request, stream=True)


@functools.cache
def _resolver() -> Resolver:
    """Of all in this process who have none of their own."""
    return Resolver()


@functools.cache
def _trust() -> ssl.SSLContext:
    """Whom to believe about names; read once, since it takes long."""
    return httpx.create_ssl_context()


def _name(url: httpx.URL) -> str:
    """The host as name servers and certificates spell it."""
    return url.raw_host.decode("ascii")


def _is_of(name: str, pattern: str) -> bool:
    return name.endswith(pattern[1:]) if pattern.startswith("*.") else name == pattern
