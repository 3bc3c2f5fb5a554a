"""The web page at `/`: the files in `page/`, and the policies that browsers enforce for them.

The files are not served by starlette's StaticFiles. Its content types depend on the machine (and in
Python 3.11 scripts are not `text/javascript`), its ETags on times of files rather than on content,
and it reads each file anew, so that a page could mix files of two versions during an upgrade.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
from fastapi import FastAPI, Request, Response

from farm.errors import FarmError
from farm.ingress.content import URL_S
from farm.ingress.errors import ApiError
from farm.ingress.scratch_file import not_modified
from svd_engine.params import RenderDefaults, RenderParams
from svd_engine.templates import templates_in

FOLDER = Path(__file__).with_name("page")
INDEX = "index.html"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".jpg": "image/jpeg",
    ".webp": "image/webp",
}
SAMPLES = [{"name": title.lower(), "title": title} for title in ("Cat", "Coffee", "Flower")]
PATIENCE_S = 2.0  # for the farm to say where clips are; otherwise the page does without


def install(app: FastAPI) -> None:
    """Serve the page at `/`, and its files below `/page/`."""
    # Read once, so that all files are of one version.
    pages = {path.name: path.read_bytes() for path in FOLDER.iterdir() if path.is_file()}
    pages[INDEX] = _index()

    @app.get("/", include_in_schema=False)
    async def index(request: Request) -> Response:
        headers = {"Content-Security-Policy": _policy(await _elsewhere(request))}
        return _answer(request, pages, INDEX, headers)

    @app.get("/page/{name}", include_in_schema=False)
    async def file(request: Request, name: str) -> Response:
        return _answer(request, pages, name, {"Content-Security-Policy": _policy("")})


def _index() -> bytes:
    """The page, with SVD's defaults of the form's parameters."""
    page = templates_in(FOLDER).get_template(INDEX)
    usual = RenderParams().resolve(RenderDefaults(num_frames=14))
    fast = RenderParams(tier="fast")
    return page.render(default=usual, fast=fast, samples=SAMPLES).encode()


def _answer(
    request: Request, pages: Mapping[str, bytes], name: str, headers: Mapping[str, str]
) -> Response:
    """The file, or 304 if the browser, which asks each time, already has it."""
    kind = TYPES.get(name[name.rfind(".") :])
    if kind is None or name not in pages:
        raise ApiError(404, f"the page has no {name!r}", code="not_found")
    tag = f'"{hashlib.sha256(pages[name]).hexdigest()[:32]}"'
    headers = {"Cache-Control": "no-cache", "ETag": tag, **headers}
    return not_modified(request, headers) or Response(pages[name], media_type=kind, headers=headers)


def _policy(elsewhere: str) -> str:
    """Only the page's own scripts and styles; clips may also come from the host `elsewhere`."""
    media = f"'self' blob: data: {elsewhere}".rstrip()
    return "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            f"img-src {media}",
            f"media-src {media}",
            f"connect-src 'self' {elsewhere}".rstrip(),
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )


async def _elsewhere(request: Request) -> str:
    """The origin that clips are redirected to; empty if the farm sends their bytes itself."""
    endpoint = request.app.state.settings.s3_public_endpoint
    if endpoint is None:
        return ""
    with anyio.move_on_after(PATIENCE_S):
        try:
            store = await request.app.state.farm.store()
            url = await anyio.to_thread.run_sync(store.presign, "page", URL_S, endpoint)
        except FarmError:
            return ""
        parts = urlsplit(url or "")
        return f"{parts.scheme}://{parts.netloc}" if parts.netloc else ""
    return ""
