"""What was made of a picture, over HTTP: whole, in ranges, or by a URL of the store's own."""

import re

import anyio.to_thread
from fastapi.responses import RedirectResponse, Response

from farm.ingress.errors import ApiError, bad_request
from farm.ingress.protocol import Farm
from farm.job import ClipResult, JobView, State, Variant
from farm.store import Stored

TYPES: dict[Variant, str] = {
    "video": "video/mp4",
    "thumbnail": "image/jpeg",
    "spritesheet": "image/jpeg",
}
URL_S = 3600  # that a presigned URL is good for


async def content_answer(
    farm: Farm, view: JobView, variant: Variant, index: int, range_: str | None
) -> Response:
    """The bytes, or a redirect; ApiError 404 where they are not there (yet)."""
    key = _result(view, index).key(variant)
    store = await farm.store()
    url = await anyio.to_thread.run_sync(store.presign, key, URL_S)
    if url is not None:
        return RedirectResponse(url, 302)
    stored = await _read(farm, key)
    return _part(stored.data, TYPES[variant], stored.etag, range_)


async def read_whole(farm: Farm, view: JobView, variant: Variant, index: int) -> bytes:
    """The bytes; ApiError 404 where they are not there (yet)."""
    return (await _read(farm, _result(view, index).key(variant))).data


async def _read(farm: Farm, key: str) -> Stored:
    store = await farm.store()
    stored = await anyio.to_thread.run_sync(store.get, key)
    if stored is None:
        raise ApiError(404, "the file is gone from the farm's store", code="video_expired")
    return stored


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


def _part(data: bytes, kind: str, etag: str, range_: str | None) -> Response:
    """One range of the data, as RFC 9110 has it; all of it for anything else."""
    headers = {"Accept-Ranges": "bytes", "ETag": f'"{etag.strip(chr(34))}"'}
    found = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", (range_ or "").replace(" ", ""))
    backward = found and found[1] and found[2] and int(found[2]) < int(found[1])
    if not found or not (found[1] or found[2]) or backward:
        return Response(data, media_type=kind, headers=headers)
    size = len(data)
    if found[1]:
        start, stop = int(found[1]), min(size, int(found[2]) + 1 if found[2] else size)
    else:
        start, stop = max(0, size - int(found[2])), size
    if start >= stop:
        headers["Content-Range"] = f"bytes */{size}"
        raise ApiError(416, f"{range_}: the file has {size} bytes", headers=headers)
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    return Response(data[start:stop], 206, media_type=kind, headers=headers)
