"""The keywords of `farm.submit`: their names, and the submission they make. Pure."""

import os
import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from farm.errors import RequestError
from farm.model.job import Submission
from farm.model.request import MAX_SEED
from svd_engine.arguments import faults_of
from svd_engine.nearest import did_you_mean
from svd_engine.params import RenderParams
from svd_engine.values import is_given, shown

MODEL = ("model", "variant", "dtype")
OWN = (
    "num_videos",
    "priority",
    "force",
    "tenant",
    "start_within_s",
    "finish_within_s",
    "webhook_url",
)
VARIANT = r"[A-Za-z0-9_-]{1,40}"
NAMES = (*RenderParams.model_fields, *MODEL, *OWN)


class ParameterError(RequestError):
    """Parameters that cannot be had; `name` is the first of those at fault."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


def check_parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    """Those given, as the farm reads them; ParameterError names the one at fault."""
    submission = submission_of(given)
    values = dict(submission) | dict(submission.params) | dict(submission.model)
    values["model"] = submission.model.name
    return {name: values[name] for name, value in given.items() if is_given(value)}


def submission_of(given: Mapping[str, Any], **known: Any) -> Submission:
    """The submission they ask for, under a new id; ParameterError names the one at fault.

    The one reading of parameters for all who ask the farm: Python, HTTP's forms and its JSON.
    known: other fields of the submission, which nobody gives as parameters.
    """
    for name in given:
        if name not in NAMES:
            raise ParameterError(name, f"{name}: there is no such parameter{_near(name)}")
    asked = {name: value for name, value in given.items() if is_given(value)}
    own = {name: asked.pop(name) for name in OWN if name in asked}
    model = {name: asked.pop(name) for name in MODEL if name in asked}
    if "model" in model:
        name = model.pop("model")
        model["name"] = os.fspath(name) if isinstance(name, os.PathLike) else name
    try:
        submission = Submission.model_validate({**own, **known, "model": model, "params": asked})
    except ValidationError as error:
        faults = faults_of(error)
        text = "; ".join(f"{name}: {fault}" for name, fault in faults)
        raise ParameterError(faults[0][0], text) from error
    _check_variant(submission.model.variant)
    if submission.params.seed + submission.num_videos - 1 > MAX_SEED:
        message = f"num_videos: seeds from {submission.params.seed} on would pass 2^64"
        raise ParameterError("num_videos", message)
    return submission


def _check_variant(variant: str | None) -> None:
    if variant is not None and not re.fullmatch(VARIANT, variant):
        raise ParameterError("variant", f"variant: give a name as fp16, got {shown(variant)}")


def _near(name: str) -> str:
    """The parameter that was meant, as far as its name tells."""
    longer = [known for known in NAMES if name in known]  # as `steps`, of num_inference_steps
    if longer:
        return f"; did you mean {min(longer, key=len)}?"
    return did_you_mean(name, NAMES) or f"; there is {', '.join(sorted(NAMES))}"
