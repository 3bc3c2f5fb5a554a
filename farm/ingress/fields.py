"""Fields of a request to a submission: names of several APIs for one thing, checked by name."""

import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from farm.ingress.errors import ApiError, bad_request
from farm.job import Submission
from farm.request import MAX_SEED, Model
from svd_engine.arguments import faults_of
from svd_engine.nearest import did_you_mean
from svd_engine.params import RenderParams

ALIASES = {
    "cond_aug": "noise_aug_strength",
    "augmentation_level": "noise_aug_strength",
    "video_frames": "num_frames",
    "steps": "num_inference_steps",
    "cfg_scale": "max_guidance_scale",
    "guidance_scale": "max_guidance_scale",
}
OWN = ("num_videos", "priority", "force", "start_within_s", "finish_within_s", "webhook_url")
VARIANT = r"[A-Za-z0-9_-]{1,40}"
NO_TEXT = ("prompt",)  # SVD has none; clients of other models send it
NAMES = (
    *RenderParams.model_fields,
    *ALIASES,
    *OWN,
    *NO_TEXT,
    *("model", "variant", "dtype", "size", "seconds"),
)


def submission_of(
    given: Mapping[str, Any], models: tuple[str, ...], tenant: str, idempotency_key: str | None
) -> Submission:
    """The submission that the fields ask for; ApiError 400 names the one at fault.

    models: those that may be asked for, the default first.
    """
    fields = _canonical({name: value for name, value in given.items() if value not in ("", None)})
    name = str(fields.pop("model", models[0]))
    if name not in models:
        near = did_you_mean(name, models)
        raise bad_request("model", f"model: there is {', '.join(models)}; got {name!r}{near}")
    own = {key: fields.pop(key) for key in OWN if key in fields}
    kind = {key: fields.pop(key) for key in ("variant", "dtype") if key in fields}
    if "variant" in kind and not re.fullmatch(VARIANT, str(kind["variant"])):
        raise bad_request("variant", f"variant: give a name as fp16; got {kind['variant']!r}")
    try:
        submission = Submission(
            **own,
            tenant=tenant,
            idempotency_key=idempotency_key,
            model=Model(name=name, **kind),
            params=RenderParams(**fields),
        )
    except ValidationError as error:
        param, fault = faults_of(error)[0]
        raise bad_request(param, f"{param}: {fault}") from error
    if submission.params.seed + submission.num_videos - 1 > MAX_SEED:
        message = f"num_videos: seeds from {submission.params.seed} on would pass 2^64"
        raise bad_request("num_videos", message)
    return submission


def _canonical(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields under their canonical names, texts taken apart."""
    fields: dict[str, Any] = {}

    def put(name: str, value: Any, source: str) -> None:
        if name in fields and str(fields[name]) != str(value):
            raise bad_request(source, f"{source}: {value!r}, but {name} is {fields[name]!r}")
        fields[name] = value

    for name, value in given.items():
        if name not in NAMES:
            raise _unknown(name)
        if name == "size":
            for side, pixels in zip(("width", "height"), _size(value), strict=True):
                put(side, pixels, name)
        elif name not in (*NO_TEXT, "seconds"):
            put(ALIASES.get(name, name), value, name)
    if isinstance(fields.get("sigmas"), str):
        fields["sigmas"] = _levels(fields["sigmas"])
    if "seconds" in given:
        fields.setdefault("num_frames", _frames(given["seconds"], fields.get("fps")))
    return fields


def _unknown(name: str) -> ApiError:
    near = did_you_mean(name, NAMES)
    return bad_request(name, f"{name}: there is no such parameter{near}", "unknown_parameter")


def _size(text: Any) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", str(text))
    if not found:
        raise bad_request("size", f"size: give WIDTHxHEIGHT, as in 1024x576; got {text!r}")
    return int(found[1]), int(found[2])


def _levels(text: str) -> Any:
    try:
        return json.loads(text if text.startswith("[") else f"[{text}]")
    except (ValueError, RecursionError) as error:
        message = f"sigmas: give numbers, as in 700,54.5,0; got {text[:80]!r}"
        raise bad_request("sigmas", message) from error


def _frames(seconds: Any, fps: Any) -> int:
    try:
        rate = RenderParams.model_validate({} if fps is None else {"fps": fps}).fps
    except ValidationError:
        rate = 1  # what is wrong with fps is said where all parameters are looked at
    try:
        length = float(seconds)
        frames = round(length * rate)
    except (TypeError, ValueError, OverflowError):
        length = frames = 0
    if not length > 0:
        raise bad_request("seconds", f"seconds: give a number above 0; got {seconds!r}")
    return max(1, frames)
