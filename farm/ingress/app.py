"""The FastAPI app, made for a farm."""

from typing import Any

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse

import svd_engine
from farm.errors import FarmError
from farm.ingress import errors, operator, page, stability, videos
from farm.ingress.protocol import Farm
from farm.ingress.rate import Rate
from farm.settings import Settings

DESCRIPTION = "Pictures to videos with Stable Video Diffusion."
_READY = {
    "type": "object",
    "required": ["status"],
    "properties": {
        "status": {"type": "string", "enum": ["ok", "no worker yet", "no coordinator"]},
        "workers": {"type": "integer"},
        "why": {"type": "string"},
    },
}
READINESS: dict[int | str, dict[str, Any]] = {
    status: {"content": {"application/json": {"schema": _READY}}} for status in (200, 503)
}


class _App(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """FastAPI's, but for the 422 that it says is everywhere: here that is a 400."""
        told = super().openapi()
        for name in ("HTTPValidationError", "ValidationError"):
            told["components"]["schemas"].pop(name, None)
        for operations in told["paths"].values():
            for operation in operations.values():
                if "HTTPValidationError" in str(operation["responses"].get("422")):
                    del operation["responses"]["422"]
        return told


def make_app(farm: Farm, settings: Settings, replicas: int = 1) -> FastAPI:
    """The app before a farm. Stateless: any number of them may stand before the same one."""
    app = _App(title="SVD render farm", version=svd_engine.__version__, description=DESCRIPTION)
    app.state.farm, app.state.settings = farm, settings
    app.state.replicas, app.state.rates = replicas, dict[str, Rate]()
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
        )
    errors.install(app, {stability.PREFIX: stability.refusal})
    for router in (videos.router, stability.router, operator.models, operator.router):
        app.include_router(router)
    page.install(app)

    @app.get("/healthz", tags=["health"])
    async def healthz() -> dict[str, str]:
        """Whether the process is alive."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["health"], responses=READINESS)
    async def readyz() -> JSONResponse:
        """Whether the coordinator answers, and there is a worker."""
        try:
            workers = (await farm.status())["workers"]
        except FarmError as error:
            return JSONResponse({"status": "no coordinator", "why": str(error)}, 503)
        up = sum(bool(worker.get("place")) for worker in workers.values())
        status = "ok" if up else "no worker yet"
        return JSONResponse({"status": status, "workers": up}, 200 if up else 503)

    return app
