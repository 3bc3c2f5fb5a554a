"""Checks that a request comes from this machine, and from a program or page that may call the farm.

A farm without keys trusts every caller. It therefore refuses what a proxy forwarded, even a proxy
on the same machine, and what a page of another site sent through the user's browser.
"""

import ipaddress
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from fastapi import Request

from farm.ingress.errors import ApiError

# Words in a header's name that betray a proxy: X-Forwarded-For, HTTP-Via, WL-Proxy-Client-IP.
_WORD = re.compile(
    "akamai|cdn|cf|cloudfront|envoy|fastly|fly|forward(ed|s)?|incap|ingress|ngrok|prox(ied|y|yuser)"
    "|sucuri|tailscale|varnish|via"
)
# Only a proxy tells the address of the client: Client-IP, X-Real-IP, X-Remote-Addr.
_ADDRESS = re.compile(
    r"(client|connecting|origin|peer|real|remote|source|true|user|visitor)?(ip|ipv?[46]|addr)"
    r"|ipaddress|ipcountry"
)
# What load balancers, gateways and authenticating proxies add besides.
_PREFIXES = (
    *("front-end-https", "remote-", "ssl-client-", "x-amz-cf-", "x-amzn-", "x-appengine-"),
    *("x-appgw-", "x-arr-", "x-auth-request-", "x-azure-", "x-client-cert", "x-client-dn"),
    *("x-client-verify", "x-coming-from", "x-consumer-", "x-forefront-", "x-goog-authenticated-"),
    *("x-goog-iap-", "x-kong-", "x-nf-", "x-nginx-", "x-original-", "x-originating-", "x-real-"),
    *("x-remote-", "x-rewrite-", "x-scheme", "x-ssl-", "x-url-scheme", "x-vercel-"),
)


def check_local(request: Request, pages: Iterable[str]) -> None:
    """Raise ApiError 403 for a request from elsewhere, or from a page that may not call the farm.

    pages: the origins of other sites whose pages may call it.
    """
    headers = request.headers
    hosts = headers.getlist("host")
    # The Host header too: another site may have its own name resolve to this machine.
    names = (request.client.host if request.client else "", *map(_name_of, hosts or [""]))
    if not all(map(is_loopback, names)):
        raise _keys_needed("this farm has no keys, so it serves only its own machine")
    # By default nginx adds no header for the servers behind it, but speaks HTTP/1.0 to them.
    sign = "HTTP/1.0" if request.scope.get("http_version") == "1.0" else _proxy_header(headers)
    if sign:
        raise _keys_needed(
            f"the request came through a proxy ({sign[:80]}), and this farm has no keys, so it "
            "serves only its own machine"
        )
    _check_page(request, hosts, frozenset(pages))


def is_loopback(host: str) -> bool:
    """Whether a name or an address is this machine's own, without asking DNS."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _keys_needed(why: str) -> ApiError:
    return ApiError(403, f"{why}: set FARM_KEYS or FARM_KEYS_FILE", code="keys_needed")


def _proxy_header(names: Iterable[str]) -> str:
    """The first header that a proxy must have added; empty if there is none."""
    for name in names:
        spelt = name.lower().replace("_", "-")
        words = spelt.split("-")
        if (
            any(map(_WORD.fullmatch, words))
            or _ADDRESS.fullmatch(words[-1])
            or spelt.startswith(_PREFIXES)
            or spelt == "x-host"
        ):
            return name
    return ""


def _check_page(request: Request, hosts: list[str], pages: frozenset[str]) -> None:
    """Raise ApiError 403 if the browser says that a page of another site sent the request.

    Browsers send Origin with most requests; without it, as for pictures, forms and links, they
    still send Sec-Fetch-Site or Referer.
    """
    origins = request.headers.getlist("origin")
    for origin in origins:
        if [_host_of(origin)] != hosts and origin not in pages:
            raise _other_origin(f"pages of {origin} may not call this farm")
    allowed = bool(origins) and pages.issuperset(origins)
    for site in request.headers.getlist("sec-fetch-site"):
        if site.strip().lower() not in ("same-origin", "none") and not allowed:
            message = f"pages of other sites may not call this farm (Sec-Fetch-Site: {site})"
            raise _other_origin(message)
    for page in request.headers.getlist("referer"):
        if [_host_of(page)] != hosts and not allowed:
            raise _other_origin(f"the page {page} may not call this farm")


def _other_origin(message: str) -> ApiError:
    return ApiError(403, message, code="other_origin")


def _host_of(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:  # as for "http://["
        return ""


def _name_of(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
