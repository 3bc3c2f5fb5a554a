"""The picture of a video: as it was sent, or as it is fitted into the frames."""

from functools import partial
from io import BytesIO
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from PIL import Image

from farm.ingress.content import in_turn, revalidated
from farm.ingress.errors import ApiError
from farm.ingress.middleware.head_requests import is_head
from farm.ingress.openai.videos import UNKNOWN, OwnView, TheFarm
from farm.ingress.scratch_file import ScratchResponse, not_modified
from farm.model.job import JobRecord
from farm.store import Store
from farm.store.keys import picture_key
from svd_engine.picture_files import open_picture

QUALITY = 90  # of JPEG
UNTOLD = "application/octet-stream"  # no type that a browser might run

router = APIRouter(prefix="/v1/videos", tags=["videos"])


@router.get(
    "/{video_id}/picture",
    responses=UNKNOWN
    | {
        200: {"content": {"image/jpeg": {}, UNTOLD: {}}},
        304: {"description": "the client already has it"},
    },
    response_class=Response,
)
async def picture(
    request: Request,
    view: OwnView,
    farm: TheFarm,
    fitted: Annotated[bool, Query(description="cropped, padded or stretched to a frame")] = False,
) -> Response:
    """The picture of a video: the bytes that were sent, or a JPEG of a frame's size."""
    job = view.job
    headers = revalidated(f"{job.request.picture} {fitted} {job.request.params.fit} {_size(job)}")
    if there := not_modified(request, headers):
        return there
    store, settings = await farm.store(), request.app.state.settings
    if fitted:
        if is_head(request):
            return Response(media_type="image/jpeg", headers=headers)
        draw = partial(_fitted, store, job, settings.max_pixels)
        drawn = await in_turn(request.app.state.drawing_thread, draw)
        return Response(drawn, media_type="image/jpeg", headers=headers)
    return ScratchResponse(
        partial(_original, store, job),
        media_type=UNTOLD,
        headers=headers,
        filename=job.picture_name or job.id,
        content_disposition_type="inline",
    )


def _size(job: JobRecord) -> tuple[int, int]:
    params = job.request.params
    assert params.width is not None  # a request's parameters are resolved
    assert params.height is not None
    return params.width, params.height


def _original(store: Store, job: JobRecord) -> bytes:
    stored = store.get(picture_key(job.request.picture))
    if stored is None:
        raise ApiError(404, "the picture is gone from the farm's store", code="picture_expired")
    return stored.data


def _fitted(store: Store, job: JobRecord, max_pixels: int) -> bytes:
    from svd_engine.picture_pixels import fit_picture  # it loads torch

    width, height = _size(job)
    try:
        whole = open_picture(_original(store, job), max_pixels)
        cut = fit_picture(whole, width, height, job.request.params.fit)
    except ValueError as error:  # only a picture's head is checked when it is sent
        raise ApiError(404, str(error), code="picture_unreadable") from error
    buffer = BytesIO()
    cut.resize((width, height), Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
