"""A finished clip's files over HTTP: whole, in ranges, or as a redirect to the store."""

from collections.abc import Callable
from email.utils import formatdate
from functools import partial
from hashlib import sha256
from pathlib import PurePosixPath
from typing import Literal, TypeVar
from urllib.parse import quote

import anyio.to_thread
from anyio import CapacityLimiter
from fastapi import Request
from fastapi.responses import PlainTextResponse, Response

from farm.artifacts import ARTIFACTS, ArtifactName
from farm.ingress.errors import ApiError, bad_request
from farm.ingress.middleware.head_requests import is_head
from farm.ingress.scratch_file import ScratchResponse, not_modified
from farm.model.farm_api import FarmApi
from farm.model.job import ClipResult, JobView, State
from farm.settings import Settings
from farm.store import Store
from svd_engine.video import convert_video

AnimatedImage = Literal["gif", "webp"]
T = TypeVar("T")
MOST_PIXELS = 2**27  # of a video that is converted: ffmpeg holds all its frames for a palette
MOST_WAITING = 64  # pictures, or videos, to be drawn
URL_S = 3600  # how long a presigned URL is valid


async def content_answer(
    request: Request, farm: FarmApi, view: JobView, artifact: ArtifactName, index: int
) -> Response:
    """The bytes, or a redirect to them if clients can reach the store. Raises ApiError 404.

    HEAD is never redirected: a URL that is signed for GET refuses it.
    """
    clip = _result(view, index)
    key = clip.key(artifact)
    store = await farm.store()
    named = filename(view, clip, artifact)
    settings: Settings = request.app.state.settings
    endpoint = settings.s3_public_endpoint
    if endpoint is not None and not is_head(request):
        url = await anyio.to_thread.run_sync(store.presign, key, URL_S, endpoint, named)
        if url is not None:
            return _redirect(url)
    # An object is written once, so its key identifies its bytes in every kind of store.
    headers = revalidated(f"{key} {clip.sha256}")
    headers["Last-Modified"] = formatdate(clip.finished_at, usegmt=True)
    if there := not_modified(request, headers):
        return there
    return ScratchResponse(
        partial(_read, store, key),
        media_type=ARTIFACTS[artifact].media_type,
        headers=headers,
        filename=named,
        content_disposition_type="inline",
    )


async def converted_answer(
    request: Request, farm: FarmApi, view: JobView, index: int, form: AnimatedImage
) -> Response:
    """The video as an animated image, made of the stored video. Raises ApiError 404."""
    clip = _result(view, index)
    key, fps = clip.key("video"), clip.request.params.fps
    store = await farm.store()
    headers = revalidated(f"{key} {clip.sha256} {form}")
    if there := not_modified(request, headers):
        return there

    params = clip.request.params
    pixels = params.frames * (params.width or 0) * (params.height or 0)
    if pixels > MOST_PIXELS:
        message = f"format: a video of over {MOST_PIXELS:,} pixels is not converted; take the MP4"
        raise bad_request("format", message)
    named = PurePosixPath(filename(view, clip, "video")).with_suffix(f".{form}")
    headers["Content-Disposition"] = f"inline; filename*=utf-8''{quote(str(named))}"
    media_type = f"image/{form}"
    if is_head(request):
        return Response(media_type=media_type, headers=headers)

    def convert() -> bytes:
        try:
            return convert_video(_read(store, key), fps, f".{form}")
        except ValueError as error:
            raise ApiError(404, str(error), code="video_unreadable") from error

    converted = await in_turn(request.app.state.converting_thread, convert)
    return Response(converted, media_type=media_type, headers=headers)


def revalidated(identity: str) -> dict[str, str]:
    """Headers of a private answer that is asked for anew each time, since a key may be revoked.

    identity: a text that is another whenever the answer's bytes are.
    """
    tag = f'"{sha256(identity.encode()).hexdigest()[:32]}"'
    return {"ETag": tag, "Cache-Control": "private, no-cache"}


async def in_turn(limiter: CapacityLimiter, work: Callable[[], T]) -> T:
    """Run work in a thread, one at a time. Raises ApiError 503 if many wait already."""
    if limiter.statistics().tasks_waiting >= MOST_WAITING:
        headers = {"Retry-After": "5"}
        raise ApiError(503, "too many pictures and videos are being drawn", headers=headers)
    return await anyio.to_thread.run_sync(work, limiter=limiter)


async def read_whole(farm: FarmApi, view: JobView, artifact: ArtifactName, index: int) -> bytes:
    """The bytes. Raises ApiError 404 if they do not exist, or not yet."""
    store = await farm.store()
    return await anyio.to_thread.run_sync(_read, store, _result(view, index).key(artifact))


def filename(view: JobView, clip: ClipResult, artifact: ArtifactName) -> str:
    """The name under which a clip's file is saved: its picture's and its seed."""
    stem = f"{view.job.picture_name or view.job.id}-seed{clip.request.params.seed}"
    what = "" if artifact == "video" else f"-{artifact}"
    return f"{stem}{what}{PurePosixPath(clip.key(artifact)).suffix}"


def _redirect(url: str) -> Response:
    # The text helps people whose client follows no redirects, such as curl without -L.
    text = f"The file is at {url}\nAsk again with a client that follows redirects (curl -L).\n"
    headers = {"Location": url, "Cache-Control": "no-store"}  # the URL expires
    return PlainTextResponse(text, 302, headers=headers)


def _read(store: Store, key: str) -> bytes:
    stored = store.get(key)
    if stored is None:
        raise ApiError(404, "the file is gone from the farm's store", code="video_expired")
    return stored.data


def _result(view: JobView, index: int) -> ClipResult:
    job = view.job
    if index >= job.request.num_videos:
        raise bad_request("index", f"index: {job.id} has {job.request.num_videos}, from 0 on")
    seed = job.request.params.seed + index
    found = next((r for r in job.results if r.request.params.seed == seed), None)
    if found is None:
        why = job.error or f"it is {job.state}"
        code = "video_not_ready" if job.state.is_open else "video_failed"
        if job.state is State.CANCELLED:
            why, code = "it was cancelled", "cancelled"
        raise ApiError(404, f"{job.id} has no video: {why}", code=code)
    return found
