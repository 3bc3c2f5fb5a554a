"""`/docs`: the whole API, shown by Swagger's page.

The farm serves Swagger's files itself, from the package fastapi-offline, so that the page works
without internet access.
"""

import base64
import hashlib
import re

from fastapi import FastAPI, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.staticfiles import StaticFiles

SWAGGER = "swagger"


def install(app: FastAPI) -> None:
    """Serve the page and its files; its policy allows no other scripts.

    All addresses are relative, since the app may be served below a prefix.
    """
    page = get_swagger_ui_html(
        openapi_url="openapi.json",
        title=app.title,
        swagger_js_url=f"{SWAGGER}/swagger-ui-bundle.js",
        swagger_css_url=f"{SWAGGER}/swagger-ui.css",
        swagger_favicon_url="page/icon.svg",
    )
    policy = _policy(bytes(page.body).decode())
    swagger = StaticFiles(packages=[("fastapi_offline", "static")])
    app.mount(f"/{SWAGGER}", swagger, name=SWAGGER)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        headers = {"Content-Security-Policy": policy}
        return Response(page.body, media_type="text/html; charset=utf-8", headers=headers)


def _policy(page: str) -> str:
    inline = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in inline)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return "; ".join(
        (
            *("default-src 'none'", "connect-src 'self'", "img-src 'self' data:"),
            f"script-src 'self' {allowed}",
            "style-src 'self' 'unsafe-inline'",
            *("base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"),
        )
    )
