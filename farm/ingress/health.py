"""`/healthz` and `/readyz`: they answer whatever else the farm is busy with."""

import asyncio
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse

from farm.errors import FarmError, StoreError
from farm.ingress.errors import public
from farm.model.farm_api import FarmApi

READY_S = 5.0  # until a coordinator that does not answer counts as none
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
    """What the coordinator says; asked once for all who ask at the same time."""

    def __init__(self, farm: FarmApi) -> None:
        self._farm = farm
        self._asked: asyncio.Task[tuple[int, dict[str, Any]]] | None = None

    async def told(self) -> tuple[int, dict[str, Any]]:
        """The status and the body."""
        if self._asked is None or self._asked.done():
            self._asked = asyncio.create_task(self._ask())
        return await asyncio.shield(self._asked)

    async def _ask(self) -> tuple[int, dict[str, Any]]:
        try:
            async with asyncio.timeout(READY_S):
                told = await self._farm.status()
        except TimeoutError:
            return 503, {"status": "no coordinator", "why": f"no answer within {READY_S:g} s"}
        except StoreError as error:
            return 503, {"status": "no store", "why": public(error)}
        except FarmError as error:
            return 503, {"status": "no coordinator", "why": str(error)}
        if told.get("trouble"):
            return 503, {"status": "no store", "why": told["trouble"]["reason"]}
        up = sum(bool(worker.get("place")) for worker in told["workers"].values())
        if up:
            return 200, {"status": "ok", "workers": up}
        why = {"why": told["blocked"]} if told.get("blocked") else {}
        return 503, {"status": "no worker yet", "workers": up, **why}


def install(app: FastAPI, farm: FarmApi) -> None:
    """Answer both."""
    readiness = _Readiness(farm)

    @app.get("/healthz", tags=["health"])
    async def healthz() -> dict[str, str]:
        """Whether the process is alive."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["health"], responses=READINESS)
    async def readyz() -> JSONResponse:
        """Whether the coordinator answers, can write to its store, and has a worker."""
        status, told = await readiness.told()
        return JSONResponse(told, status)
