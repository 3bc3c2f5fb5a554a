"""Identifies callers: each bearer key, stored as a hash, belongs to a tenant."""

import hashlib
import math
import time
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from starlette.datastructures import Headers

from farm.errors import RequestError
from farm.ingress.access.keys import Keys
from farm.ingress.access.rate_limit import Rate
from farm.ingress.access.same_machine import check_local, is_loopback
from farm.ingress.errors import ApiError
from farm.ingress.middleware.request_log import note_key
from farm.settings import Key, Settings

# Every caller on this machine, when the farm has no keys.
ANYBODY = Key(tenant="default", operator=True)

# This only documents the scheme in OpenAPI: `key_of` refuses callers.
BEARER = HTTPBearer(auto_error=False, description="not needed when the farm has no keys")


async def key_of(request: Request, _: Annotated[object, Depends(BEARER)]) -> Key:
    """The caller's key, which says what the caller may do. Raises ApiError 401, 403 or 429.

    A farm without keys serves only its own machine. Of the web pages open there, only the farm's
    own and those of FARM_CORS_ORIGINS may call it.
    """
    keys: Keys = request.app.state.keys
    if not keys.needed:
        check_local(request, request.app.state.settings.cors_origins)
        note_key(ANYBODY.tenant, "")
        return ANYBODY
    name = _name_of(request.headers)
    if not name:
        raise _refused("no key was given: send 'Authorization: Bearer KEY'", "missing_api_key")
    found = keys.find(name)
    if found is None:
        raise _refused("the key is not known here", "invalid_api_key")
    note_key(found.tenant, name)
    if found.per_minute is not None:
        _limit(request, name, found.per_minute)
    request.state.key = found
    return found


def caller_of(headers: Headers, keys: Keys) -> str:
    """The hash of the caller's key, to tell callers apart; empty for an unknown key or none."""
    name = _name_of(headers)
    return name if keys.find(name) else ""


def still_allowed(request: Request) -> bool:
    """Whether the caller's key is still in force: keys may be revoked during a request."""
    keys: Keys = request.app.state.keys
    return not keys.needed or keys.find(_name_of(request.headers)) == request.state.key


async def tenant_of(key: Annotated[Key, Depends(key_of)]) -> str:
    """The tenant whose jobs the caller sees."""
    return key.tenant


async def operator(key: Annotated[Key, Depends(key_of)]) -> None:
    """Raise ApiError 403 unless the key has operator rights."""
    if not key.operator:
        raise ApiError(403, "this key lacks operator rights", code="operators_only")


def _name_of(headers: Headers) -> str:
    """The bearer key's hash, by which the settings list it; empty if no key was sent."""
    kind, _, key = headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not key.strip():
        return ""
    return hashlib.sha256(key.strip().encode()).hexdigest()


def _refused(message: str, code: str) -> ApiError:
    return ApiError(401, message, code=code, headers={"WWW-Authenticate": "Bearer"})


def _limit(request: Request, name: str, per_minute: float) -> None:
    """Raise ApiError 429 if a key exceeds its rate, of which each replica allows its share."""
    now, share = time.monotonic(), per_minute / request.app.state.replicas
    rates: dict[str, tuple[float, Rate]] = request.app.state.rates
    if rates.get(name, (None,))[0] != share:  # a new key, or a new rate
        rates[name] = share, Rate(share, now)
    wait = rates[name][1].wait_s(now)
    if wait:
        raise ApiError(
            429,
            f"this key may send {per_minute:g} requests a minute",
            code="rate_limit_exceeded",
            headers={"Retry-After": str(math.ceil(wait))},
        )


def check_host(host: str, settings: Settings) -> None:
    """Raise RequestError if a farm without keys would listen beyond its own machine."""
    if not settings.keys and settings.keys_file is None and not is_loopback(host):
        raise RequestError(
            f"the farm would listen at {host} and has no keys: set FARM_KEYS or FARM_KEYS_FILE, or "
            "have Ray Serve listen at 127.0.0.1 (serve start --http-host 127.0.0.1)"
        )


Tenant = Annotated[str, Depends(tenant_of)]
