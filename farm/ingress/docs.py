"""`/docs`: the whole API, shown by Swagger's page, whose files come from where FastAPI has them."""

import base64
import hashlib
import re

from fastapi import FastAPI, Response
from fastapi.openapi.docs import get_swagger_ui_html

SWAGGER = "https://cdn.jsdelivr.net/npm/swagger-ui-dist@5/"


def install(app: FastAPI) -> None:
    """Serve the page; no script of another's runs in it."""
    page = get_swagger_ui_html(
        openapi_url="openapi.json",
        title=app.title,
        swagger_js_url=f"{SWAGGER}swagger-ui-bundle.js",
        swagger_css_url=f"{SWAGGER}swagger-ui.css",
        swagger_favicon_url="page/icon.svg",
    )
    policy = _policy(bytes(page.body).decode())

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
            f"script-src {SWAGGER} {allowed}",
            f"style-src {SWAGGER} 'unsafe-inline'",
            *("base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"),
        )
    )
