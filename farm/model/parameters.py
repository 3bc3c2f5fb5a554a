"""Reads a job's named parameters, from wherever they come, into a submission. Pure."""

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from farm.errors import RequestError
from farm.model.job import JobOptions, Submission
from farm.model.request import check_seeds
from svd_engine import reader
from svd_engine.values import is_given, number, shown

MODEL = ("model", "variant", "dtype")
JOB = tuple(JobOptions.model_fields)
NAMES = (*reader.NAMES, *MODEL, *JOB)
VARIANT = r"[A-Za-z0-9_-]{1,40}"


class ParameterError(RequestError):
    """Parameters are refused; `name` is the first one at fault."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


class UnknownParameterError(ParameterError):
    """There is no parameter of this name."""


def check_parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    """The given parameters, validated and under their full names. Raises ParameterError."""
    submission = submission_of(given)
    values = dict(submission) | dict(submission.params) | dict(submission.model)
    values["model"] = submission.model.name
    return {name: values[name] for name in by_full_name(given)}


def submission_of(given: Mapping[str, Any], **known: Any) -> Submission:
    """The submission that the parameters ask for, under a new id. Raises ParameterError.

    Python, HTTP forms and HTTP JSON all have their parameters read here. known: other fields of the
    submission, which are not parameters.
    """
    asked = by_full_name(given)
    own = {name: asked.pop(name) for name in JOB if name in asked}
    model = {name: asked.pop(name) for name in MODEL if name in asked}
    if "model" in model:
        name = model.pop("model")
        model["name"] = os.fspath(name) if isinstance(name, os.PathLike) else name
    try:
        submission = Submission.model_validate({**own, **known, "model": model, "params": asked})
    except ValidationError as error:
        faults = reader.faults_of(error)
        text = "; ".join(f"{name}: {fault}" for name, fault in faults)
        raise ParameterError(faults[0][0], text) from error
    _check_variant(submission.model.variant)
    try:
        check_seeds(submission.params.seed, submission.num_videos)
    except ValueError as error:
        raise ParameterError("num_videos", str(error)) from error
    return submission


def by_full_name(given: Mapping[str, Any], known: Iterable[str] = NAMES) -> dict[str, Any]:
    """The parameters that have a value, under their full names.

    Raises UnknownParameterError for a name that is not known, and ParameterError if a parameter has
    different values under two names.
    """
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name not in known:
            raise UnknownParameterError(name, reader.unknown_parameter(name, known))
        if is_given(value):
            put(values, reader.ALIASES.get(name, name), value, name)
    return values


def put(values: dict[str, Any], name: str, value: Any, source: str) -> None:
    """Set a parameter given as `source`. Raises ParameterError if it already has another value."""
    if name in values and number(values[name]) != number(value):
        other = f"{name} is {shown(values[name])}"
        raise ParameterError(source, f"{source}: {shown(value)}, but {other}")
    values[name] = value


def _check_variant(variant: str | None) -> None:
    if variant is not None and not re.fullmatch(VARIANT, variant):
        raise ParameterError("variant", f"variant: give a name such as fp16, got {shown(variant)}")
