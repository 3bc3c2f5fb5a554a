"""HTTP requests are counted by route, whatever comes of them."""

import asyncio
from typing import cast

import pytest

from farm.ingress.app import make_app
from farm.metrics import catalogue
from farm.model.farm_api import FarmApi
from tests.support.asgi import StillFarm, bearer, client, settings_of
from tests.support.recorded import Recorded

CALLS = [
    ("GET", "/v1/videos/acme", "/v1/videos/{video_id}", 200),
    ("GET", "/v1/videos/unknown", "/v1/videos/{video_id}", 404),
    ("GET", "/v1/videos", "/v1/videos", 200),
    ("POST", "/v1/videos", "/v1/videos", 415),
    ("GET", "/openapi.json", "/openapi.json", 200),
    ("GET", "/of/no/route/at/all", "none", 404),
]


@pytest.mark.parametrize(("method", "path", "route", "status"), CALLS)
def test_a_request_is_counted_by_its_route(method: str, path: str, route: str, status: int) -> None:
    recorded = Recorded()
    app = make_app(cast("FarmApi", StillFarm()), settings_of(), meter=recorded)

    async def call() -> int:
        async with client(app) as http:
            answer = await http.request(method, path, headers=bearer("sesame"))
            return answer.status_code

    assert asyncio.run(call()) == status
    labels = {"method": method, "route": route, "status": str(status)}
    assert recorded.value(catalogue.HTTP_REQUESTS, **labels) == 1
    assert recorded.value(catalogue.HTTP_REQUESTS) == 1
    assert recorded.count(catalogue.HTTP_SECONDS, route=route) == 1


@pytest.mark.parametrize("method", ["BREW", "get", "A" * 500])
def test_methods_that_nobody_knows_are_one(method: str) -> None:
    recorded = Recorded()
    app = make_app(cast("FarmApi", StillFarm()), settings_of(), meter=recorded)

    async def call() -> None:
        async with client(app) as http:
            await http.send(http.build_request(method, "/v1/videos"))

    asyncio.run(call())
    expected = "GET" if method == "get" else "other"  # httpx writes methods in capitals
    assert recorded.value(catalogue.HTTP_REQUESTS, method=expected) == 1


def test_paths_do_not_make_series() -> None:
    recorded = Recorded()
    app = make_app(cast("FarmApi", StillFarm()), settings_of(), meter=recorded)

    async def call() -> None:
        async with client(app) as http:
            for number in range(50):
                await http.get(f"/v1/videos/job-{number}", headers=bearer("sesame"))
                await http.get(f"/nothing/{number}")

    asyncio.run(call())
    assert len(recorded.values) == 2
    assert recorded.value(catalogue.HTTP_REQUESTS) == 100
