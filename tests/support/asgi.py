"""The HTTP app without Ray or a server: a client that calls it over ASGI, and a farm that idles."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import httpx2
from fastapi import FastAPI

from farm.ingress.app import make_app
from farm.model.farm_api import FarmApi
from farm.model.job import JobRecord, JobView, LogEntry, Progress
from farm.model.request import Model, ModelFacts, RenderRequest
from farm.settings import Key, Settings
from svd_engine.params import RenderDefaults, RenderParams

KEYS = {"sesame": "acme", "open": "other", "wrong": ""}
DEFAULTS = RenderDefaults(width=64, height=48, num_frames=2, max_guidance_scale=3.0)
PARAMS = RenderParams().resolve(DEFAULTS)


def settings_of(**given: Any) -> Settings:
    """Settings with a key for each of two tenants."""
    hashes = {hashlib.sha256(key.encode()).hexdigest(): name for key, name in KEYS.items() if name}
    return Settings(keys={name: Key(tenant=tenant) for name, tenant in hashes.items()}, **given)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


class StillFarm:
    """A farm with one open job for each tenant, named like the tenant, that never progresses."""

    def __init__(self) -> None:
        self.news = asyncio.Event()  # never set: `watch` waits for it
        self.answers = asyncio.Event()  # `views` waits until it is set
        self.answers.set()

    async def describe(self, _: Model) -> ModelFacts:
        return ModelFacts(digest="0" * 64, defaults=DEFAULTS)

    async def find(self, job: str) -> JobView | None:
        if job not in KEYS.values():
            return None
        digest = "0" * 64
        request = RenderRequest(picture=digest, weights=digest, dtype="float32", params=PARAMS)
        record = JobRecord(id=job, tenant=job, model=Model(), request=request, created_at=1.0)
        return JobView(job=record, progress=Progress(steps=1, chunks=1))

    async def views(self, tenant: str, after: str, limit: int, newest: bool) -> list[JobView]:
        await self.answers.wait()
        return []

    async def watch(self, jobs: Sequence[str], after: int) -> tuple[int, list[JobView]]:
        if after >= 0:
            await self.news.wait()
        return 1, []

    async def events(self, job: str, after: int) -> list[LogEntry]:
        return []

    async def status(self) -> dict[str, Any]:
        return {"workers": {"renderer-0": {"place": "here"}}}

    async def cancel(self, job: str) -> JobView:
        raise ZeroDivisionError(job)  # stands for a bug in the farm

    async def pause(self, job: str) -> JobView:
        raise ZeroDivisionError(job)


def still_app(farm: StillFarm | None = None, **settings: Any) -> FastAPI:
    return make_app(cast("FarmApi", farm or StillFarm()), settings_of(**settings))


@asynccontextmanager
async def client(app: Any, key: str = "sesame") -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(app, client=("127.0.0.1", 1))
    async with httpx2.AsyncClient(
        transport=transport, base_url="http://localhost", headers=bearer(key) if key else {}
    ) as http:
        yield http


@dataclass
class Stream:
    """A request with a response that continues until its client disconnects."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    _begun: asyncio.Event = field(default_factory=asyncio.Event)
    _gone: asyncio.Event = field(default_factory=asyncio.Event)
    _task: asyncio.Task[None] | None = None

    async def open(self, app: Any, path: str, key: str) -> "Stream":
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [(b"host", b"localhost"), (b"authorization", f"Bearer {key}".encode())],
            "client": ("127.0.0.1", 1),
            "server": ("localhost", 80),
        }
        self._task = asyncio.create_task(app(scope, self._receive, self._send))
        await asyncio.wait_for(self._begun.wait(), 30)
        return self

    async def close(self) -> None:
        self._gone.set()
        if self._task is not None:
            await asyncio.wait_for(self._task, 30)

    async def ended(self) -> None:
        assert self._task is not None
        await self._task

    def json(self) -> Any:
        return json.loads(self.body)

    async def _receive(self) -> dict[str, Any]:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.body += message.get("body", b"")
            self._begun.set()
