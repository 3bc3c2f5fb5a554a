"""HTTP requests to hosts that clients name, protected against server-side request forgery.

Each request looks its host up once, checks that the addresses are public, and connects to a checked
address, so a name server cannot change its answer in between. TLS certificates are still verified
against the host's name.
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

LIMIT_S = 10.0  # for a whole request, with the lookup of its host and all redirects
CONNECT_S = 5.0  # to one of a host's addresses
REDIRECTS = 3
# Networks that Python calls global, but that are not public: IETF protocol assignments (some clouds
# serve metadata there), 6to4 relays, and Azure's virtual host.
NOT_PUBLIC = tuple(map(IPv4Network, ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32")))
UNICAST = IPv6Network("2000::/3")
TUNNELS = tuple(map(IPv6Network, ("2001::/23", "2002::/16")))  # Teredo and 6to4 reach any IPv4
NAT64 = IPv6Network("64:ff9b::/96")


def parse_url(text: str) -> httpx.URL:
    """Parse a URL; raises OutboundError if it is not an http(s) URL without credentials."""
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError) as error:  # UnicodeError is a ValueError
        raise OutboundError(f"not a URL: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise OutboundError(f"not a URL of the web, as https://host/path; got {text[:80]!r}")
    if url.userinfo:
        raise OutboundError("the URL may not contain a user name or a password")
    if url.port is not None and not 0 < url.port < 2**16:
        raise OutboundError(f"there is no port {url.port}")
    return url


def is_public(address: str) -> bool:
    """Whether an IP address is public; for an IPv4-mapped IPv6 address, whether the IPv4 one is."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, IPv6Address):
        mapped = IPv4Address(int(ip) % 2**32) if ip in NAT64 else ip.ipv4_mapped
        if mapped is None:
            return ip in UNICAST and ip.is_global and not any(ip in each for each in TUNNELS)
        ip = mapped
    return ip.is_global and not ip.is_multicast and not any(ip in each for each in NOT_PUBLIC)


def is_private_literal(url: httpx.URL) -> bool:
    """Whether the host is `localhost` or a literal address that is not public.

    This needs no name server, so it can reject a URL as soon as it arrives.
    """
    name = _name(url)
    if name.rstrip(".").rpartition(".")[2] == "localhost":
        return True
    address = literal(name)
    return address is not None and not _is_public(address)


def _is_public(address: str) -> bool:
    try:
        return is_public(address)
    except ValueError:  # `literal` accepts anything with a colon as an IPv6 address
        return False


async def addresses_of(
    url: httpx.URL, allow_private: bool, resolver: Resolver | None = None
) -> list[str]:
    """The host's addresses that requests may go to; raises OutboundError if there are none."""
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
    """POST the data and return the response's status. Raises OutboundError without a response.

    resolver: give senders their own, so that names whose lookup hangs do not delay other senders.
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
    """GET the URL and return the body, of at most `limit` bytes. Raises OutboundError.

    hosts: the hosts that requests may go to, after redirects too: a name like `pictures.example`,
    or `*.example` for all names below it.
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
    """The body, or the URL of a redirect."""
    if not any(_is_of(_name(url), pattern) for pattern in hosts):
        raise OutboundError(f"{url.host} is not among the hosts that this farm may fetch from")
    # `identity`, because a compressed body could expand far beyond the limit.
    async with _asked("GET", url, allow_private, {"Accept-Encoding": "identity"}) as answer:
        if answer.has_redirect_location:
            try:
                return parse_url(str(url.join(answer.headers["location"])))
            except (httpx.InvalidURL, ValueError) as error:
                raise OutboundError(f"{url.host} redirects to no URL") from error
        if answer.status_code != 200:
            raise OutboundError(f"{url.host} answered {answer.status_code}")
        length = answer.headers.get("content-length", "")
        data = bytearray()
        if not length.isdecimal() or int(length) <= limit:
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
    """The host's response, with its body unread. Raises OutboundError."""
    addresses = await addresses_of(url, allow_private, resolver)
    limits = httpx.Timeout(None, connect=CONNECT_S)
    try:
        # trust_env=False, because a proxy from the environment would look the name up itself.
        async with httpx.AsyncClient(verify=_trust(), trust_env=False, timeout=limits) as client:
            request = client.build_request(
                method,
                url,
                content=data,
                headers={"User-Agent": "svd-render-farm", **headers},
                extensions={"sni_hostname": _name(url)},  # the name that the certificate must have
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
    """The response of the first address that accepts a connection."""
    name, (*others, last) = request.url, addresses
    for address in others:
        request.url = name.copy_with(host=address)  # the header `Host` keeps the name
        with suppress(httpx.ConnectError, httpx.ConnectTimeout):
            return await client.send(request, stream=True)
    request.url = name.copy_with(host=last)
    return await client.send(request, stream=True)


@functools.cache
def _resolver() -> Resolver:
    """The resolver of all callers in this process that give none."""
    return Resolver()


@functools.cache
def _trust() -> ssl.SSLContext:
    """The trusted certificates; cached, because loading them is slow."""
    return httpx.create_ssl_context()


def _name(url: httpx.URL) -> str:
    """The host in ASCII, as name servers and certificates spell it."""
    return url.raw_host.decode("ascii")


def _is_of(name: str, pattern: str) -> bool:
    return name.endswith(pattern[1:]) if pattern.startswith("*.") else name == pattern
