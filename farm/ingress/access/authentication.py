"""Who is asking: bearer keys, kept as hashes, each of a tenant."""

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
from farm.settings import Key, Settings

ANYBODY = Key(tenant="default", operator=True)  # of this machine, where a farm has no keys

# For OpenAPI alone: it refuses nothing.
BEARER = HTTPBearer(auto_error=False, description="not asked for where the farm has no keys")


async def key_of(request: Request, _: Annotated[object, Depends(BEARER)]) -> Key:
    """What the caller may do; ApiError 401 or 403.

    Without keys only this machine is served, and of its browsers' pages the farm's own and those
    of FARM_CORS_ORIGINS.
    """
    keys: Keys = request.app.state.keys
    if not keys.needed:
        check_local(request, request.app.state.settings.cors_origins)
        return ANYBODY
    name = _name_of(request.headers)
    if not name:
        raise _refused("no key: send 'Authorization: Bearer KEY'", "missing_api_key")
    found = keys.find(name)
    if found is None:
        raise _refused("the key is not known here", "invalid_api_key")
    if found.per_minute is not None:
        _limit(request, name, found.per_minute)
    request.state.key = found
    return found


def caller_of(headers: Headers, keys: Keys) -> str:
    """The name of the caller's key; empty for whoever has none that is known."""
    name = _name_of(headers)
    return name if keys.find(name) else ""


def still_allowed(request: Request) -> bool:
    """Whether who asked may still do so, and see what he saw: keys may be taken back meanwhile."""
    keys: Keys = request.app.state.keys
    return not keys.needed or keys.find(_name_of(request.headers)) == request.state.key


async def tenant_of(key: Annotated[Key, Depends(key_of)]) -> str:
    """Whose jobs the caller sees."""
    return key.tenant


async def operator(key: Annotated[Key, Depends(key_of)]) -> None:
    """ApiError 403 for a key without that right."""
    if not key.operator:
        raise ApiError(403, "the key is no operator's", code="operators_only")


def _name_of(headers: Headers) -> str:
    """What the setting has a bearer key by; empty where there is none."""
    kind, _, key = headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not key.strip():
        return ""
    return hashlib.sha256(key.strip().encode()).hexdigest()


def _refused(message: str, code: str) -> ApiError:
    return ApiError(401, message, code=code, headers={"WWW-Authenticate": "Bearer"})


def _limit(request: Request, name: str, per_minute: float) -> None:
    """ApiError 429 for a key that asks too often; each replica allows its share."""
    now, share = time.monotonic(), per_minute / request.app.state.replicas
    rates: dict[str, tuple[float, Rate]] = request.app.state.rates
    if rates.get(name, (None,))[0] != share:  # the first time, or since it was changed
        rates[name] = share, Rate(share, now)
    wait = rates[name][1].wait_s(now)
    if wait:
        raise ApiError(
            429,
            f"the key may ask {per_minute:g} times a minute",
            code="rate_limit_exceeded",
            headers={"Retry-After": str(math.ceil(wait))},
        )


def check_host(host: str, settings: Settings) -> None:
    """RequestError where a farm without keys would listen to more than its own machine."""
    if not settings.keys and settings.keys_file is None and not is_loopback(host):
        raise RequestError(
            f"the farm would listen at {host} and has no keys: set FARM_KEYS or FARM_KEYS_FILE, or "
            "let Ray Serve listen at 127.0.0.1 (serve start --http-host 127.0.0.1)"
        )


Tenant = Annotated[str, Depends(tenant_of)]
