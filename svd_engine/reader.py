"""Reads a clip's parameters by name. No torch.

The command lines, rows of CSV and JSONL, HTTP and Python all take the names listed here, refuse
every other name in the same words, and report the same faults.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from svd_engine.nearest import did_you_mean, nearest
from svd_engine.params import RenderParams
from svd_engine.values import is_given, shown

# Other names of a parameter: a short one, and those of other APIs for image-to-video.
ALIASES = {
    "steps": "num_inference_steps",
    "video_frames": "num_frames",
    "cfg_scale": "max_guidance_scale",
    "guidance_scale": "max_guidance_scale",
    "cond_aug": "noise_aug_strength",
    "augmentation_level": "noise_aug_strength",
}
NAMES = (*RenderParams.model_fields, *ALIASES)
LISTS = ("sigmas",)  # parameters whose text is a list joined by commas


def unknown_parameter(name: str, known: Iterable[str]) -> str:
    """The message for a name that is no parameter, with the known name that was probably meant."""
    names = list(known)
    near = nearest(name, names)
    hint = f"Did you mean {near!r}?" if near else f"The parameters are {', '.join(sorted(names))}"
    return f"Unknown parameter {shown(name)}. {hint}"


def parse_params(given: Mapping[str, Any]) -> RenderParams:
    """The RenderParams of values or texts by full name. Raises pydantic's ValidationError."""
    return RenderParams.model_validate({n: value for n, value in given.items() if is_given(value)})


def faults_of(error: ValidationError) -> list[tuple[str, str]]:
    """Each parameter at fault, and what is wrong with it."""
    return [(_name(fault["loc"]), _message(fault)) for fault in error.errors()]


def _name(loc: tuple[int | str, ...]) -> str:
    """The parameter that a fault belongs to, which may be a field of a field."""
    names = [str(part) for part in loc if part not in ("params", "model")]
    if loc[-2:] == ("model", "name"):
        return "model"
    return names[0] if names else str(loc[0]) if loc else "parameters"


def _message(fault: Any) -> str:
    if fault["type"] == "value_error":  # raised by this project, with the value in its message
        return str(fault["ctx"]["error"])
    text = f"{fault['msg']}, got {shown(fault['input'])}"
    if fault["type"] == "literal_error":
        choices = re.findall(r"'([^']*)'", fault["ctx"]["expected"])
        text += did_you_mean(str(fault["input"]), choices)
    return text
