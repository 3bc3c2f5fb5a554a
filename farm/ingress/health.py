"""`/healthz` and `/readyz`, which answer however busy the farm is."""

import asyncio
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse

from farm.errors import FarmError, StoreError
from farm.ingress.errors import public
from farm.model.farm_api import FarmApi

READY_S = 5.0  # without an answer, after which the coordinator counts as absent
_READY = {
    "type": "object",
    "required": ["status"],
    "properties": {
        "status": {"type": "string", "enum": ["ok", "no worker yet", "no store", "no coordinator"]},
        "workers": {"type": "integer"},
        "why": {"type": "string"},
    },
}
READINESS: dict[int | str, dict[str, Any]] = {
    status: {"content": {"application/json": {"schema": _READY}}} for status in (200, 503)
}


class _Readiness:
    """The coordinator's state; probes that come at the same time share one call."""

    def __init__(self, farm: FarmApi) -> None:
        self._farm = farm
        self._asked: asyncio.Task[tuple[int, dict[str, Any]]] | None = None

    async def check(self) -> tuple[int, dict[str, Any]]:
        """The status and the body of an answer."""
        if self._asked is None or self._asked.done():
            self._asked = asyncio.create_task(self._ask())
        return await asyncio.shield(self._asked)

    async def _ask(self) -> tuple[int, dict[str, Any]]:
        try:
            async with asyncio.timeout(READY_S):
                status = await self._farm.status()
        except TimeoutError:
            return 503, {"status": "no coordinator", "why": f"no answer within {READY_S:g} s"}
        except StoreError as error:
            return 503, {"status": "no store", "why": public(error)}
        except FarmError as error:
            return 503, {"status": "no coordinator", "why": str(error)}
        if status.get("trouble"):
            return 503, {"status": "no store", "why": status["trouble"]["reason"]}
        up = sum(bool(worker.get("place")) for worker in status["workers"].values())
        if up:
            return 200, {"status": "ok", "workers": up}
        why = {"why": status["blocked"]} if status.get("blocked") else {}
        return 503, {"status": "no worker yet", "workers": up, **why}


def install(app: FastAPI, farm: FarmApi) -> None:
    """Add both routes."""
    readiness = _Readiness(farm)

    @app.get("/healthz", tags=["health"])
    async def healthz() -> dict[str, str]:
        """Whether the process is alive."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["health"], responses=READINESS)
    async def readyz() -> JSONResponse:
        """Whether the coordinator answers, can write to its store, and has a worker."""
        status, body = await readiness.check()
        return JSONResponse(body, status)
