"""`RenderParams` as command-line options, for every command that has them. No torch."""

import argparse
import re
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError

from svd_engine.nearest import did_you_mean, in_sentences
from svd_engine.params import DtypeName, RenderParams
from svd_engine.reader import ALIASES, faults_of, parse_params
from svd_engine.values import as_text

METAVARS = {
    "width": "PIXELS",
    "height": "PIXELS",
    "sigmas": "S,S,...",
    "deviations": "NAME+NAME+...",
}
DEVICES = ("cpu", "cuda", "mps", "xpu")


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose the weights and their type."""
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
    """Add the option that chooses the device."""
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
        sentences = [f"Unknown device {text!r}{near}", "Give cpu, cuda or cuda:1"]
        raise argparse.ArgumentTypeError(in_sentences(sentences))
    return text


def add_param_options(
    parser: argparse.ArgumentParser, leave_out: tuple[str, ...] = (), several: bool = False
) -> None:
    """Add an option for each field of RenderParams, under its own name and its aliases.

    several: the text of an option may be a list of values, which the caller splits.
    """
    title = "what to render (named as in diffusers"
    title += "; several values, as in 7,12, make a clip for each)" if several else ")"
    group = parser.add_argument_group(title)
    for name, field in RenderParams.model_fields.items():
        if name in leave_out:
            continue
        names = (name, *(alias for alias, full in ALIASES.items() if full == name))
        default = field.default
        default_text = "" if default in (None, ()) else f" (default: {as_text(default)})"
        group.add_argument(
            *map(option, names),
            dest=name,
            default=argparse.SUPPRESS,
            help=f"{field.description}{default_text}",
            metavar=_metavar(name, field.annotation),
        )


def option(name: str) -> str:
    """The command-line option of a parameter."""
    return f"--{name.replace('_', '-')}"


def given_params(options: argparse.Namespace) -> dict[str, Any]:
    """The texts of the RenderParams fields that were given, by full name."""
    names = RenderParams.model_fields
    return {name: getattr(options, name) for name in names if hasattr(options, name)}


def params_from(options: argparse.Namespace, **values: Any) -> RenderParams:
    """The RenderParams of parsed options; ValueError names the option at fault."""
    try:
        return parse_params(given_params(options) | values)
    except ValidationError as error:
        faults = (f"{option(name)}: {fault}" for name, fault in faults_of(error))
        raise ValueError(in_sentences(faults)) from error


def _metavar(name: str, annotation: Any) -> str:
    if get_origin(annotation) is Literal:  # no `choices`: argparse would word their errors itself
        return ",".join(get_args(annotation))
    if annotation is bool:
        return "true,false"
    return METAVARS.get(name, "N")
