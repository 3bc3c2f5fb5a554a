"""`RenderParams` as command-line options, for every command that takes them. No torch."""

import argparse
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError

from svd_engine.params import Dtype, RenderParams

ALIASES = {"num_inference_steps": ["--steps"]}


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which weights, and in which type."""
    parser.add_argument(
        "--model",
        default="tiny",
        help="a folder in the diffusers layout, a hub id, svd, svd-xt, svd-xt-1.1, "
        "or tiny (default; random weights, so noise)",
    )
    parser.add_argument("--variant", help="which weights of the model, such as fp16")
    parser.add_argument(
        "--dtype", default="float32", choices=get_args(Dtype), help="(default: float32)"
    )


def add_param_options(parser: argparse.ArgumentParser, leave_out: tuple[str, ...] = ()) -> None:
    """Add an option for each field of RenderParams, under its own name."""
    group = parser.add_argument_group("what to render (names and defaults are diffusers')")
    for name, field in RenderParams.model_fields.items():
        if name in leave_out:
            continue
        flag = "--" + name.replace("_", "-")
        default = "" if field.default is None else f" (default: {field.default})"
        options: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS}
        options |= {"help": f"{field.description}{default}", "metavar": _metavar(name)}
        if get_origin(field.annotation) is Literal:
            options |= {"choices": get_args(field.annotation), "metavar": None}
        group.add_argument(flag, *ALIASES.get(name, ()), **options)


def params_from(options: argparse.Namespace, **values: Any) -> RenderParams:
    """The RenderParams of parsed options; ValueError names the option at fault."""
    given = {
        name: getattr(options, name) for name in RenderParams.model_fields if hasattr(options, name)
    }
    if isinstance(given.get("sigmas"), str):
        given["sigmas"] = given["sigmas"].split(",")
    try:
        return RenderParams.model_validate(given | values)
    except ValidationError as error:
        raise ValueError("; ".join(_say(fault) for fault in error.errors())) from error


def _metavar(name: str) -> str:
    return {"sigmas": "S,S,...", "width": "PIXELS", "height": "PIXELS"}.get(name, "N")


def _say(fault: Any) -> str:
    name = str(fault["loc"][0]).replace("_", "-") if fault["loc"] else "parameters"
    return f"--{name}: {fault['msg']}, got {fault['input']!r}"
