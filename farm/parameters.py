"""The keywords of `farm.submit`: their names, and the submission they make. Pure."""

import os
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from farm.errors import RequestError
from farm.job import Submission
from farm.request import Model
from svd_engine.arguments import faults_of
from svd_engine.nearest import did_you_mean
from svd_engine.params import RenderParams

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
NAMES = (*RenderParams.model_fields, *MODEL, *OWN)


def check_parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    """Those given (and not None), as the farm reads them; RequestError names the one at fault."""
    submission = submission_of(given)
    values = dict(submission) | dict(submission.params) | dict(submission.model)
    values["model"] = submission.model.name
    return {name: values[name] for name, value in given.items() if value is not None}


def submission_of(given: Mapping[str, Any]) -> Submission:
    """The submission they ask for, under a new id; RequestError names the one at fault."""
    for name in given:
        if name not in NAMES:
            raise RequestError(f"{name}: there is no such parameter{_near(name)}")
    asked = {name: value for name, value in given.items() if value is not None}
    own = {name: asked.pop(name) for name in OWN if name in asked}
    model = {name: asked.pop(name) for name in MODEL if name in asked}
    if "model" in model:
        name = model.pop("model")
        model["name"] = os.fspath(name) if isinstance(name, os.PathLike) else name
    try:
        return Submission(**own, model=Model(**model), params=RenderParams(**asked))
    except ValidationError as error:
        faults = [(name, fault) for name, fault in faults_of(error)]
        names = {"name": "model"}
        text = "; ".join(f"{names.get(name, name)}: {fault}" for name, fault in faults)
        raise RequestError(text) from error


def _near(name: str) -> str:
    """The parameter that was meant, as far as its name tells."""
    longer = [known for known in NAMES if name in known]  # as `steps`, of num_inference_steps
    if longer:
        return f"; did you mean {min(longer, key=len)}?"
    return did_you_mean(name, NAMES) or f"; there is {', '.join(sorted(NAMES))}"
