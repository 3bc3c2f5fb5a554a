"""The fields of an HTTP request, read as parameters and made a submission."""

import math
import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from farm.ingress.errors import bad_request
from farm.model.job import JobOptions, Submission
from farm.model.parameters import (
    JOB,
    MODEL,
    VARIANT,
    ParameterError,
    UnknownParameterError,
    by_full_name,
    put,
)
from farm.model.parameters import submission_of as submission_of_parameters
from farm.model.request import Model
from svd_engine import reader
from svd_engine.nearest import did_you_mean
from svd_engine.params import RenderParams
from svd_engine.values import is_given, number, shown

JOB_FIELDS = tuple(name for name in JOB if name != "tenant")  # the key says who the tenant is
OPENAI = {  # fields that only OpenAI's API has
    "size": "width and height, as in 1024x576",
    "seconds": "the length of the video, which times fps is num_frames",
    "prompt": "accepted and not used: SVD takes no text",
}
NAMES = (*reader.NAMES, *MODEL, *JOB_FIELDS, *OPENAI)


def submission_of(
    given: Mapping[str, Any],
    models: tuple[str, ...],
    tenant: str,
    idempotency_key: str | None,
    picture_name: str = "",
) -> Submission:
    """The submission that the fields ask for. Raises ApiError 400, which names the field at fault.

    models: the models that may be asked for, the default first.
    """
    try:
        fields = _parameters(given)
        model = fields.setdefault("model", models[0])
        if model not in models:
            near = did_you_mean(str(model), models)
            message = f"model: there is {', '.join(models)}; got {shown(model)}{near}"
            raise ParameterError("model", message)
        return submission_of_parameters(
            fields, tenant=tenant, idempotency_key=idempotency_key, picture_name=picture_name
        )
    except UnknownParameterError as error:
        raise bad_request(error.name, str(error), "unknown_parameter") from error
    except ParameterError as error:
        raise bad_request(error.name, str(error)) from error


def field_schemas() -> dict[str, Any]:
    """The fields of a request body for OpenAPI."""
    params = RenderParams.model_json_schema()["properties"]
    job = JobOptions.model_json_schema()["properties"]
    model = Model.model_json_schema()["properties"]
    aliases = {
        alias: {**params[name], "title": alias, "description": f"another name of {name}"}
        for alias, name in reader.ALIASES.items()
    }
    return {
        **params,
        **aliases,
        **{name: job[name] for name in JOB_FIELDS},
        "model": {"type": "string", "description": model["name"]["description"]},
        "variant": {
            "type": "string",
            "pattern": f"^{VARIANT}$",
            "description": model["variant"]["description"],
        },
        "dtype": model["dtype"],
        **{name: {"type": "string", "description": text} for name, text in OPENAI.items()},
    }


def _parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields as parameters under their full names; those of OpenAI's API are translated."""
    fields = by_full_name({name: v for name, v in given.items() if is_given(v)}, NAMES)
    size, seconds, prompt = (fields.pop(name, None) for name in OPENAI)
    if size is not None:
        for side, pixels in zip(("width", "height"), _size(size), strict=True):
            put(fields, side, pixels, "size")
    if seconds is not None:
        fields.setdefault("num_frames", _frames(seconds, fields.get("fps")))
    if prompt is not None and not isinstance(prompt, str):  # SVD has no use for a text
        raise ParameterError("prompt", f"prompt: give a text, got {shown(prompt)}")
    return fields


def _size(text: Any) -> tuple[int, int]:
    found = re.fullmatch(r"\s*(\d{1,5})\s*x\s*(\d{1,5})\s*", str(text), re.ASCII | re.IGNORECASE)
    if not found:
        message = f"size: give WIDTHxHEIGHT, as in 1024x576; got {shown(text)}"
        raise ParameterError("size", message)
    return int(found[1]), int(found[2])


def _frames(seconds: Any, fps: Any) -> int:
    try:
        rate = RenderParams.model_validate({} if fps is None else {"fps": fps}).fps
    except ValidationError:
        rate = 1  # what is wrong with fps is reported when all parameters are validated
    length = number(seconds)
    known = isinstance(length, int | float) and not isinstance(length, bool)
    if not known or not 0 < length * rate < math.inf:
        raise ParameterError("seconds", f"seconds: give a number above 0, got {shown(length)}")
    return max(1, round(length * rate))
