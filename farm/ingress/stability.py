"""Stability's `/v2beta/image-to-video`, a service that has closed: clients only change the host.

A generation's id is the job's id in hexadecimal, filled up to the 64 digits of Stability's ids.
`cfg_scale` is `max_guidance_scale`, with `min_guidance_scale` 1; frames, steps and fps have their
defaults.
"""

import base64
import re
import secrets
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Path, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from farm.caller import current_caller
from farm.errors import RequestError
from farm.ingress.access.authentication import Tenant
from farm.ingress.bodies.body import read_body, threaded
from farm.ingress.content import read_whole
from farm.ingress.errors import ApiError, bad_request
from farm.ingress.fields import submission_of
from farm.ingress.openai.videos import ID, TheFarm, find
from farm.model.job import JobView, State
from farm.settings import Settings
from svd_engine.picture_files import check_picture
from svd_engine.reader import unknown_parameter
from svd_engine.values import is_given, number, shown, whole

BELOW = "/v2beta"
PREFIX = f"{BELOW}/image-to-video"
SIZES = ((1024, 576), (576, 1024), (768, 768))
JPEG_OR_PNG = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")  # how their files begin
MAX_SEED = 4_294_967_294
# The parameters: the least value, the greatest, and the default.
NUMBERS = {
    "seed": (0, MAX_SEED, "0"),
    "cfg_scale": (0.0, 10.0, "1.8"),
    "motion_bucket_id": (1, 255, "127"),
}

router = APIRouter(prefix=PREFIX, tags=["stability"])


class Started(BaseModel):
    """The id by which a generation's result is asked for."""

    id: str


class Pending(BaseModel):
    """A generation that has not finished."""

    id: str
    status: Literal["in-progress"] = "in-progress"


class Refusal(BaseModel):
    """The body of an error."""

    id: str
    name: str
    errors: list[str]


class Result(BaseModel):
    """A finished generation, as JSON."""

    video: str  # base64
    finish_reason: Literal["SUCCESS"] = "SUCCESS"
    seed: int


NAMES = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "payload_too_large",
    422: "unprocessable_entity",
    429: "rate_limit_exceeded",
    431: "request_header_fields_too_large",
    503: "service_unavailable",
}


def refusal(error: ApiError) -> JSONResponse:
    """An error in Stability's shape."""
    status = error.status if error.status in NAMES else 400 if error.status < 500 else 500
    name = NAMES.get(status, "internal_error")
    caller = current_caller()
    request_id = caller.request_id if caller else secrets.token_hex(16)
    body = Refusal(id=request_id, name=name, errors=[error.message])
    return JSONResponse(body.model_dump(), status, headers=error.headers)


def _responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Refusal} for status in statuses}


FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "additionalProperties": False,
                    "properties": {
                        "image": {
                            "type": "string",
                            "format": "binary",
                            "description": "jpeg or png; 1024x576, 576x1024 or 768x768",
                        },
                        "seed": {"type": "integer", "minimum": 0, "maximum": MAX_SEED},
                        "cfg_scale": {"type": "number", "minimum": 0, "maximum": 10},
                        "motion_bucket_id": {"type": "integer", "minimum": 1, "maximum": 255},
                    },
                }
            }
        },
    }
}


@router.post(
    "", responses=_responses(400, 401, 403, 408, 413, 422, 429, 500, 503), openapi_extra=FORM
)
async def start(request: Request, farm: TheFarm, tenant: Tenant) -> Started:
    """Render a picture into a video; the result is asked for by the id."""
    settings: Settings = request.app.state.settings
    body = await read_body(request, settings.max_body, picture="image")
    if body.picture is None:
        raise bad_request("image", "image: is required")
    width, height = await threaded(
        request, len(body.picture), _size, body.picture, settings.max_pixels
    )
    for name in body.fields:
        if name not in NUMBERS:
            raise bad_request(name, unknown_parameter(name, NUMBERS))
    fields = {
        name: _number(name, body.fields[name] if is_given(body.fields.get(name)) else default)
        for name, (_, _, default) in NUMBERS.items()
    }
    # 0 stands for a random seed, which the result names.
    fields["seed"] = fields["seed"] or 1 + secrets.randbelow(MAX_SEED)
    fields |= {"min_guidance_scale": 1.0, "width": width, "height": height}
    submission = submission_of(fields, settings.models, tenant, None, body.filename)
    try:
        view = await farm.submit(submission, body.picture)
    except RequestError as error:
        raise ApiError(422, f"image: {error}") from error
    return Started(id=_encode(view.job.id))


@router.get(
    "/result/{id}",
    responses={
        200: {"model": Result, "content": {"video/mp4": {}}},
        202: {"model": Pending},
        **_responses(400, 401, 403, 404, 429, 500, 503),
    },
)
async def result(
    id: Annotated[str, Path(pattern="^[0-9a-f]{64}$")],
    farm: TheFarm,
    tenant: Tenant,
    accept: Annotated[str, Header()] = "video/*",
) -> Response:
    """The video, or 202 while it is being rendered."""
    view = await find(farm, _decode(id), tenant)
    if view is None:
        raise ApiError(404, f"id: there is no generation {id}")
    if view.job.state.is_open:
        return JSONResponse(Pending(id=id).model_dump(), 202)
    if view.job.state is State.CANCELLED:  # not an error of the farm
        raise ApiError(404, f"id: the generation {id} was cancelled")
    if view.job.state is not State.COMPLETED:
        raise ApiError(500, view.job.error or f"the generation is {view.job.state}")
    seed = view.job.request.params.seed
    if "application/json" in accept:
        video = base64.b64encode(await _video(farm, view)).decode()
        return JSONResponse(Result(video=video, seed=seed).model_dump())
    headers = {"finish-reason": "SUCCESS", "seed": str(seed)}
    return Response(await _video(farm, view), media_type="video/mp4", headers=headers)


async def _video(farm: TheFarm, view: JobView) -> bytes:
    return await read_whole(farm, view, "video", 0)


def _size(picture: bytes, max_pixels: int) -> tuple[int, int]:
    """The picture's size, which the video will have. Raises ApiError 400 or 422."""
    if not picture.startswith(JPEG_OR_PNG):
        raise ApiError(422, "image: not a JPEG or PNG picture")
    try:
        size = check_picture(picture, max_pixels)
    except ValueError as error:
        raise ApiError(422, f"image: {error}") from error
    if size not in SIZES:
        allowed = ", ".join(f"{width}x{height}" for width, height in SIZES)
        raise bad_request("image", f"image: must be {allowed}; got {size[0]}x{size[1]}")
    return size


def _number(name: str, given: Any) -> float:
    least, most, _ = NUMBERS[name]
    value = number(given) if isinstance(least, float) else whole(given)
    if isinstance(value, bool) or not isinstance(value, type(least) | int):
        kind = "a number" if isinstance(least, float) else "a whole number"
        raise bad_request(name, f"{name}: must be {kind}, got {shown(value)}")
    if not least <= value <= most:
        raise bad_request(name, f"{name}: must be from {least} to {most}, got {shown(value)}")
    return value


def _encode(job: str) -> str:
    return job.encode().hex().ljust(64, "0")


def _decode(text: str) -> str:
    """The job's id; empty if this cannot be one."""
    job = bytes.fromhex(text).rstrip(b"\0").decode("ascii", errors="replace")
    return job if re.fullmatch(ID, job) else ""
