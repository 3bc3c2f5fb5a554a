"""`RenderParams` as command-line options, for every command that takes them. No torch."""

import argparse
import re
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError

from svd_engine.nearest import did_you_mean
from svd_engine.params import DtypeName, RenderParams
from svd_engine.values import is_given, shown

ALIASES = {"num_inference_steps": ["--steps"]}
DEVICES = ("cpu", "cuda", "mps", "xpu")


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which weights, and in which type."""
    parser.add_argument(
        "--model",
        default="nano",
        help="a folder in the diffusers layout, a hub id, svd, svd-xt, svd-xt-1.1, "
        "nano (default; small, in the package), or tiny (random weights, so noise)",
    )
    parser.add_argument("--variant", help="which weights of the model, such as fp16")
    parser.add_argument(
        "--dtype", default="float32", choices=get_args(DtypeName), help="(default: float32)"
    )


def add_device_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that says where to compute."""
    parser.add_argument(
        "--device",
        type=_device,
        default="cpu",
        metavar="DEVICE",
        help="cpu, cuda, cuda:1, ... (default: cpu)",
    )


def _device(text: str) -> str:
    kind = text.partition(":")[0]
    if kind not in DEVICES or not re.fullmatch(r"[a-z]+(:\d{1,3})?", text):
        near = did_you_mean(kind, DEVICES)
        raise argparse.ArgumentTypeError(f"there is no {text!r}{near}; give cpu, cuda or cuda:1")
    return text


def add_param_options(
    parser: argparse.ArgumentParser, leave_out: tuple[str, ...] = (), several: bool = False
) -> None:
    """Add an option for each field of RenderParams, under its own name.

    several: its text may be a comma separated list, for its reader to take apart.
    """
    title = "what to render (named as in diffusers"
    title += "; several values, as in 7,12, are a clip of each)" if several else ")"
    group = parser.add_argument_group(title)
    for name, field in RenderParams.model_fields.items():
        if name in leave_out:
            continue
        flag = "--" + name.replace("_", "-")
        default = "" if field.default in (None, ()) else f" (default: {field.default})"
        options: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS}
        options |= {"help": f"{field.description}{default}", "metavar": _metavar(name)}
        if get_origin(field.annotation) is Literal:  # no `choices`: their error is argparse's own
            options["metavar"] = ",".join(get_args(field.annotation))
        group.add_argument(flag, *ALIASES.get(name, ()), **options)


def given_params(options: argparse.Namespace) -> dict[str, Any]:
    """The fields of RenderParams that were given, as they were given: as texts."""
    names = RenderParams.model_fields
    return {name: getattr(options, name) for name in names if hasattr(options, name)}


def params_from(options: argparse.Namespace, **values: Any) -> RenderParams:
    """The RenderParams of parsed options; ValueError names the option at fault."""
    try:
        return parse_params(given_params(options) | values)
    except ValidationError as error:
        faults = (f"--{name.replace('_', '-')}: {fault}" for name, fault in faults_of(error))
        raise ValueError("; ".join(faults)) from error


def parse_params(given: Mapping[str, Any]) -> RenderParams:
    """The RenderParams of values, or of their texts; pydantic's ValidationError."""
    return RenderParams.model_validate({n: value for n, value in given.items() if is_given(value)})


def faults_of(error: ValidationError) -> list[tuple[str, str]]:
    """Each parameter at fault, and what is wrong with it."""
    return [(_name(fault["loc"]), _say(fault)) for fault in error.errors()]


def _name(loc: tuple[int | str, ...]) -> str:
    """The parameter that a fault is of; it may be a field of a field."""
    names = [str(part) for part in loc if part not in ("params", "model")]
    if loc[-2:] == ("model", "name"):
        return "model"
    return names[0] if names else str(loc[0]) if loc else "parameters"


def _metavar(name: str) -> str:
    lists = {"sigmas": "S,S,...", "deviations": "NAME+NAME+..."}
    return {"width": "PIXELS", "height": "PIXELS", **lists}.get(name, "N")


def _say(fault: Any) -> str:
    if fault["type"] == "value_error":  # one of our own, which tells of the value
        return str(fault["ctx"]["error"])
    text = f"{fault['msg']}, got {shown(fault['input'])}"
    if fault["type"] == "literal_error":
        text += did_you_mean(
            str(fault["input"]), re.findall(r"'([^']*)'", fault["ctx"]["expected"])
        )
    return text
