"""The routes of `/v1/videos`: OpenAI's, and the farm's own beside them."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Any, Literal

import anyio.to_thread
from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.responses import StreamingResponse

from farm.artifacts import ArtifactName
from farm.coordinator.webhooks import check_webhook
from farm.errors import RequestError, SizeError
from farm.ingress.access.authentication import Tenant, still_allowed
from farm.ingress.bodies.body import PICTURE, read_body, threaded
from farm.ingress.content import AnimatedImage, content_answer, converted_answer
from farm.ingress.errors import ApiError, bad_request, no_video, responses
from farm.ingress.fields import field_schemas, submission_of
from farm.ingress.openai.events import event_stream
from farm.model.farm_api import FarmApi
from farm.model.job import JobView, Progress, Submission
from farm.model.request import digest_of
from farm.model.wire import Check, Video, VideoDeleted, VideoList, video_of
from farm.settings import Settings
from svd_engine.picture_files import check_picture

POLL_MS = 1000  # how often OpenAI's client is to poll
# Proxies must not hold events back: nginx buffers answers, and others compress or cache them.
STREAM_HEADERS = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}
REFUSED = responses(400, 401, 403, 408, 413, 415, 429, 503)
CONTENT = ("video/mp4", "image/jpeg", "image/gif", "image/webp")
UNKNOWN = responses(400, 401, 403, 404, 429, 503)
ID = r"^[A-Za-z0-9_.-]{1,80}$"
VideoId = Annotated[str, Path(pattern=ID, description="a video's id")]

router = APIRouter(prefix="/v1/videos", tags=["videos"])


async def farm_of(request: Request) -> FarmApi:
    """The farm that the app serves."""
    farm: FarmApi = request.app.state.farm
    return farm


TheFarm = Annotated[FarmApi, Depends(farm_of)]


async def own_view(video_id: VideoId, farm: TheFarm, tenant: Tenant) -> JobView:
    """The job, if it is the caller's. Raises ApiError 404 otherwise."""
    view = await find(farm, video_id, tenant)
    if view is None:
        raise no_video(video_id)
    return view


OwnView = Annotated[JobView, Depends(own_view)]


async def find(farm: FarmApi, job: str, tenant: str) -> JobView | None:
    """The job, if it is the tenant's; None otherwise."""
    view = await farm.find(job)
    return view if view is not None and view.job.tenant == tenant else None


async def _read_submission(
    request: Request, tenant: str, key: str | None
) -> tuple[Submission, bytes]:
    settings: Settings = request.app.state.settings
    body = await read_body(request, settings.max_body)
    submission = submission_of(body.fields, settings.models, tenant, key or "", body.filename)
    try:
        check_webhook(submission.webhook_url, settings)
    except RequestError as error:
        raise bad_request("webhook_url", str(error)) from error
    if body.picture is None:
        raise bad_request(
            PICTURE, f"{PICTURE}: is required: the picture, as a file or a data URL", "missing"
        )
    try:
        size = len(body.picture)
        await threaded(request, size, check_picture, body.picture, settings.max_pixels)
    except ValueError as error:
        raise bad_request(PICTURE, f"{PICTURE}: {error}") from error
    return submission, body.picture


@contextmanager
def _weights_named(submission: Submission) -> Iterator[None]:
    """Turn a RequestError of the farm into an ApiError that names the parameter.

    Everything else was checked before the farm was called, so the error must be about the weights;
    only a SizeError is not about a single parameter.
    """
    try:
        yield
    except SizeError:
        raise
    except RequestError as error:
        param = "model" if submission.model.variant is None else "variant"
        raise bad_request(param, f"{param}: {error}") from error


def _body(picture: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {PICTURE: picture, **field_schemas()},
        "required": [PICTURE],
        "additionalProperties": False,
    }


# Shown at `/docs`, and sent from there: a small picture of a horizon.
EXAMPLE = {
    PICTURE: "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQAQMAAAAlPW0iAAAABlBMVEXIeDxalt"
    "zi1tEEAAAAEElEQVR42mP8z8DEgB1hBQAxWQERJ7aJ5AAAAABJRU5ErkJggg==",
    "seed": 7,
    "fit": "crop",
    "num_inference_steps": 10,
}
BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": _body({"type": "string", "format": "binary"})},
            "application/json": {
                "schema": _body(
                    {"type": "string", "description": "a data URL, or the URL of a picture"}
                ),
                "example": EXAMPLE,
            },
        },
    }
}


@router.post("", responses=REFUSED | responses(409), openapi_extra=BODY)
async def create(
    request: Request,
    response: Response,
    farm: TheFarm,
    tenant: Tenant,
    idempotency_key: Annotated[str | None, Header(max_length=255)] = None,
) -> Video:
    """Render a picture into a video. The answer is sent once the job is in the store.

    Requests with the same `Idempotency-Key` are the same job for a day. Without a key, equal
    requests are the same job for ten minutes.
    """
    submission, picture = await _read_submission(request, tenant, idempotency_key)
    with _weights_named(submission):
        view = await farm.submit(submission, picture)
    response.headers["openai-poll-after-ms"] = str(POLL_MS)
    return video_of(view)


@router.post("/check", responses=REFUSED, openapi_extra=BODY)
async def check(request: Request, farm: TheFarm, tenant: Tenant) -> Check:
    """Check a request as `create` would, and say what it would take, without creating a job."""
    submission, picture = await _read_submission(request, tenant, None)
    with _weights_named(submission):
        digest = await anyio.to_thread.run_sync(digest_of, picture)
        job, done = await farm.check(submission, digest)
    steps = job.request.params.steps * job.request.num_videos
    return Check(
        video=video_of(JobView(job=job, progress=Progress(steps=steps, chunks=0))),
        unet_steps=job.request.params.steps * (job.request.num_videos - done),
        videos_done=done,
    )


@router.get("", responses=responses(400, 401, 403, 429, 503))
async def list_videos(
    farm: TheFarm,
    tenant: Tenant,
    after: Annotated[str, Query(pattern=r"^[A-Za-z0-9_.-]{0,80}$", description="an id")] = "",
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
) -> VideoList:
    """The caller's videos in the order of their creation."""
    views = await farm.views(tenant, after, limit + 1, order == "desc")
    data = [video_of(view) for view in views[:limit]]
    return VideoList(
        data=data,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
        has_more=len(views) > limit,
    )


@router.get("/{video_id}", responses=UNKNOWN)
async def retrieve(view: OwnView, response: Response) -> Video:
    """A video and its progress."""
    response.headers["openai-poll-after-ms"] = str(POLL_MS)
    return video_of(view)


@router.post("/{video_id}/cancel", responses=UNKNOWN | responses(409))
async def cancel(view: OwnView, farm: TheFarm) -> Video:
    """Stop a video's job at its next step; a finished video stays as it is."""
    if view.job.state.is_open:
        view = await farm.cancel(view.job.id)
    return video_of(view)


@router.post("/{video_id}/pause", responses=UNKNOWN | responses(409))
async def pause(view: OwnView, farm: TheFarm) -> Video:
    """Start no more of a video's tasks until it is resumed."""
    return video_of(await farm.pause(view.job.id))


@router.post("/{video_id}/resume", responses=UNKNOWN | responses(409))
async def resume(view: OwnView, farm: TheFarm) -> Video:
    """Continue a paused video."""
    return video_of(await farm.resume(view.job.id))


@router.delete("/{video_id}", responses=UNKNOWN)
async def delete(view: OwnView, farm: TheFarm) -> VideoDeleted:
    """Stop a video's job, and delete it."""
    await farm.delete(view.job.id)
    return VideoDeleted(id=view.job.id)


@router.get(
    "/{video_id}/content",
    responses=UNKNOWN
    | responses(416)
    | {
        200: {"content": {kind: {} for kind in CONTENT}},
        206: {"content": {kind: {} for kind in (*CONTENT, "multipart/byteranges")}},
        302: {"description": "a redirect to a URL of the store", "content": {"text/plain": {}}},
        304: {"description": "the client already has it"},
    },
    response_class=Response,
)
async def content(
    request: Request,
    view: OwnView,
    farm: TheFarm,
    variant: ArtifactName = "video",
    index: Annotated[int, Query(ge=0, description="which of `num_videos`")] = 0,
    format_: Annotated[
        AnimatedImage | None, Query(alias="format", description="convert the video to this")
    ] = None,
    range_: Annotated[str | None, Header(alias="range")] = None,  # noqa: ARG001 - for OpenAPI
) -> Response:
    """The file, or a redirect to it. Range and conditional requests are supported."""
    if format_ is None:
        return await content_answer(request, farm, view, variant, index)
    if variant != "video":
        raise bad_request("format", f"format: only the video is converted, not the {variant}")
    return await converted_answer(request, farm, view, index, format_)


@router.get(
    "/{video_id}/events",
    responses=UNKNOWN | {200: {"content": {"text/event-stream": {}}}},
    response_class=StreamingResponse,
)
async def events(
    view: OwnView,
    request: Request,
    farm: TheFarm,
    last_event_id: Annotated[str | None, Header()] = None,
) -> StreamingResponse:
    """The job's event log after `Last-Event-ID`, as server-sent events, until the job has ended."""
    after = last_event_id or "0"
    if not after.isdecimal() or len(after) > 18:
        raise bad_request("Last-Event-ID", f"Last-Event-ID: give a number, got {after!r}")
    stream = event_stream(farm, view.job.id, int(after), partial(still_allowed, request))
    return StreamingResponse(stream, media_type="text/event-stream", headers=STREAM_HEADERS)


@router.post("/{video_id}/remix", responses=responses(400), include_in_schema=False)
@router.post("/edits", responses=responses(400), include_in_schema=False)
@router.post("/extensions", responses=responses(400), include_in_schema=False)
@router.post("/characters", responses=responses(400), include_in_schema=False)
async def unsupported(request: Request) -> Response:
    """Calls of OpenAI's API that SVD cannot answer."""
    call = request.url.path.rpartition("/")[2]
    raise ApiError(400, f"{call}: Stable Video Diffusion cannot do this", code="unsupported")
