"""Fields of a request to a submission: names of several APIs for one thing, checked by name."""

import math
import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from farm.ingress.errors import ApiError, bad_request
from farm.model.job import Submission
from farm.model.parameters import OWN as ASKED
from farm.model.parameters import ParameterError
from farm.model.parameters import submission_of as submission_of_parameters
from svd_engine.nearest import did_you_mean
from svd_engine.params import RenderParams
from svd_engine.values import is_given, number, shown

ALIASES = {
    "cond_aug": "noise_aug_strength",
    "augmentation_level": "noise_aug_strength",
    "video_frames": "num_frames",
    "steps": "num_inference_steps",
    "cfg_scale": "max_guidance_scale",
    "guidance_scale": "max_guidance_scale",
}
OWN = tuple(name for name in ASKED if name != "tenant")  # which is the key's
NO_TEXT = ("prompt",)  # SVD has none; clients of other models send it
NAMES = (
    *RenderParams.model_fields,
    *ALIASES,
    *OWN,
    *NO_TEXT,
    *("model", "variant", "dtype", "size", "seconds"),
)


def submission_of(
    given: Mapping[str, Any],
    models: tuple[str, ...],
    tenant: str,
    idempotency_key: str | None,
    picture_name: str = "",
) -> Submission:
    """The submission that the fields ask for; ApiError 400 names the one at fault.

    models: those that may be asked for, the default first.
    """
    fields = _canonical({name: value for name, value in given.items() if is_given(value)})
    model = fields.setdefault("model", models[0])
    if model not in models:
        near = did_you_mean(str(model), models)
        raise bad_request("model", f"model: there is {', '.join(models)}; got {shown(model)}{near}")
    try:
        return submission_of_parameters(
            fields, tenant=tenant, idempotency_key=idempotency_key, picture_name=picture_name
        )
    except ParameterError as error:
        raise bad_request(error.name, str(error)) from error


def _canonical(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields under their canonical names."""
    fields: dict[str, Any] = {}

    def put(name: str, value: Any, source: str) -> None:
        if name in fields and number(fields[name]) != number(value):
            other = f"{name} is {shown(fields[name])}"
            raise bad_request(source, f"{source}: {shown(value)}, but {other}")
        fields[name] = value

    for name, value in given.items():
        if name not in NAMES:
            raise _unknown(name)
        if name == "size":
            for side, pixels in zip(("width", "height"), _size(value), strict=True):
                put(side, pixels, name)
        elif name not in (*NO_TEXT, "seconds"):
            put(ALIASES.get(name, name), value, name)
        elif name in NO_TEXT and not isinstance(value, str):
            raise bad_request(name, f"{name}: give a text, got {shown(value)}")
    if "seconds" in given:
        fields.setdefault("num_frames", _frames(given["seconds"], fields.get("fps")))
    return fields


def _unknown(name: str) -> ApiError:
    near = did_you_mean(name, NAMES)
    return bad_request(name, f"{name}: there is no such parameter{near}", "unknown_parameter")


def _size(text: Any) -> tuple[int, int]:
    found = re.fullmatch(r"\s*(\d{1,5})\s*x\s*(\d{1,5})\s*", str(text), re.ASCII | re.IGNORECASE)
    if not found:
        raise bad_request("size", f"size: give WIDTHxHEIGHT, as in 1024x576; got {shown(text)}")
    return int(found[1]), int(found[2])


def _frames(seconds: Any, fps: Any) -> int:
    try:
        rate = RenderParams.model_validate({} if fps is None else {"fps": fps}).fps
    except ValidationError:
        rate = 1  # what is wrong with fps is said where all parameters are looked at
    length = number(seconds)
    known = isinstance(length, int | float) and not isinstance(length, bool)
    if not known or not 0 < length * rate < math.inf:
        message = f"seconds: give a number above 0, got {shown(length)}"
        raise bad_request("seconds", message)
    return max(1, round(length * rate))
