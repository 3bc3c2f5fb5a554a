"""The commands `trace`, `compare` and `diagnose` of `python -m svd_engine`."""

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svd_engine.arguments import (
    add_device_option,
    add_model_options,
    add_param_options,
    given_params,
    params_from,
)
from svd_engine.command_line import STATUSES, reading
from svd_engine.params import RenderParams
from svd_engine.tiers import whole_steps

if TYPE_CHECKING:
    from svd_engine.conformance.replay import Case

Commands = Any  # argparse gives the type no public name
EXAMPLES = """\
examples:
  %(prog)s trace photo.jpg --model svd-xt --out right.safetensors --at 0,12,24
  %(prog)s compare right.safetensors theirs/ --html departures.html
  %(prog)s diagnose theirs/ --model svd-xt --picture photo.jpg --seed 42 --fps 7 \\
      --html diagnosis.html
"""
COMPARED = "exit status: 0 alike, 1 one departs or it failed, 2 they cannot be read or compared"
DIAGNOSED = (
    "exit status: 0 all that was recorded is right, 1 a mistake is named or it failed,\n"
    "2 the trace may be wrong, as when something was recorded but not judged, or cannot be read"
)


def add_commands(commands: Commands) -> None:
    """Add the three commands to the parser."""
    _add_trace(commands)
    _add_compare(commands)
    _add_diagnose(commands)


def _add_trace(commands: Commands) -> None:
    trace = _command(commands, "trace", "record what a render computes, tensor by tensor", STATUSES)
    trace.add_argument("picture", metavar="PICTURE")
    trace.add_argument("--out", required=True, metavar="FILE", help="a .safetensors file")
    add_model_options(trace)
    add_device_option(trace)
    trace.add_argument(
        "--implementation",
        default="engine",
        choices=("engine", "diffusers"),
        help="whose render to record (default: engine)",
    )
    trace.add_argument("--at", metavar="N,N,...", help="which steps to keep (default: all)")
    trace.add_argument(
        "--only", action="append", metavar="PATTERN", help="tensors to keep, as 'step.*.latents'"
    )
    add_param_options(trace)


def _add_compare(commands: Commands) -> None:
    compare = _command(
        commands, "compare", "where two traces first depart, and by how much", COMPARED
    )
    compare.add_argument("first", metavar="A", help="a trace file, or a folder of tensors")
    compare.add_argument("second", metavar="B", help="another one")
    compare.add_argument("--html", metavar="FILE", help="also write a page with pictures")
    compare.add_argument("--json", action="store_true", help="print JSON")


def _add_diagnose(commands: Commands) -> None:
    diagnose = _command(
        commands, "diagnose", "name the known mistakes that explain a trace", DIAGNOSED
    )
    diagnose.add_argument("theirs", metavar="THEIRS", help="a trace file, or a folder of tensors")
    diagnose.add_argument("--picture", required=True, help="the picture that the port rendered")
    add_model_options(diagnose)
    add_device_option(diagnose)
    diagnose.add_argument(
        "--html", metavar="FILE", help="also write a page with pictures and the lines to change"
    )
    diagnose.add_argument("--json", action="store_true", help="print JSON")
    diagnose.add_argument(
        "--steps-judged",
        metavar="N|all",
        default="2",
        help="at how many of the recorded steps to judge the UNet (default: 2, the first and the "
        "last); all other stages are judged at every step",
    )
    diagnose.add_argument(
        "--inside",
        metavar="BLOCKS",
        help="the results of blocks inside the networks, a trace file or a folder of tensors that "
        "are named after diffusers' modules: judged block by block",
    )
    add_param_options(diagnose, leave_out=("deviations",))


def _command(commands: Commands, name: str, does: str, statuses: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=does,
        description=does.capitalize() + ".",
        epilog=f"{EXAMPLES}\n{statuses}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def trace(options: argparse.Namespace) -> int:
    """Record a render in a trace file."""
    import torch

    from svd_engine.checkpoint import open_checkpoint
    from svd_engine.conformance import record, reference
    from svd_engine.conformance.traces import Trace
    from svd_engine.engine import Engine
    from svd_engine.picture_files import open_picture

    out = Path(options.out)
    if out.suffix != ".safetensors":
        raise ValueError(f"--out: give a .safetensors file, got {options.out!r}")
    recorder = record.Recorder(options.only or (), _steps(options.at))
    _keep_float32()
    dtype = getattr(torch, options.dtype)
    with reading():
        picture = open_picture(options.picture)
        checkpoint = open_checkpoint(options.model, options.variant)
        checkpoint.check()
    params = params_from(options).resolve(checkpoint.render_defaults)
    if options.implementation == "engine":
        engine = Engine.from_pretrained(options.model, options.device, dtype, options.variant)
        record.record(engine, picture, params, recorder)
    else:
        pipeline = reference.load_reference(
            checkpoint.folder, options.device, dtype, options.variant
        )
        reference.record_reference(pipeline, picture, params, recorder)
    about = {
        "model_digest": checkpoint.digest,
        "memory": recorder.memory,
        **_about(options, params),
        **record.about_machine(options.device),
    }
    Trace(recorder.tensors, about).save(out)
    print(f"{out}: {len(recorder.tensors)} tensors")
    return 0


def _about(options: argparse.Namespace, params: RenderParams) -> dict[str, Any]:
    """What a trace's header says about the command."""
    return {
        "command": shlex.join(["python", "-m", "svd_engine", *sys.argv[1:]]),
        "implementation": options.implementation,
        "model": options.model,
        "dtype": options.dtype,
        "params": params.model_dump(),
        "whole_steps": whole_steps(params.steps, params.reuse_interval),
        "seed": params.seed,
    }


def _keep_float32() -> None:
    """Keep convolutions on a GPU from rounding float32 to TF32, which is off by a thousandth."""
    import torch

    torch.backends.cudnn.allow_tf32 = False


def _steps(text: str | None) -> set[int] | None:
    if text is None:
        return None
    try:
        return {int(part) for part in text.split(",")}
    except ValueError as error:
        raise ValueError(f"--at: give steps, as in 0,12,24; got {text!r}") from error


def compare(options: argparse.Namespace) -> int:
    """Compare two traces. Returns 0 if they are alike, 1 if one departs; see `COMPARED`."""
    from svd_engine.conformance.compare import compare, table, tier_warnings
    from svd_engine.conformance.page import comparison_page
    from svd_engine.conformance.traces import TraceError, open_trace

    with reading():
        first, second = open_trace(Path(options.first)), open_trace(Path(options.second))
        comparison = compare(first, second)
    if not comparison.rows:
        raise TraceError("no name is in both: name the tensors as `svd_engine/README.md` says")
    if options.html:
        names = (Path(options.first).name, Path(options.second).name)
        Path(options.html).write_text(comparison_page(comparison, first, second, names))
    if options.json:
        print(json.dumps(comparison.as_json()))
    else:
        print("\n".join([*tier_warnings(first, second), *table(comparison)]))
    return 1 if comparison.first_departure else 0


def diagnose(options: argparse.Namespace) -> int:
    """Name the mistakes in a trace. Returns an exit status; see `DIAGNOSED`."""
    from svd_engine.conformance.diagnose import diagnose
    from svd_engine.conformance.diagnosis_page import diagnosis_page
    from svd_engine.conformance.report import line_of, report
    from svd_engine.conformance.sketches import Sketches
    from svd_engine.conformance.traces import open_trace

    steps_judged = _count(options.steps_judged)
    with reading():
        blocks = open_trace(Path(options.inside)) if options.inside else None
    case = _case_of(options)
    quiet: Callable[[Any], object] = lambda _: None  # noqa: E731
    tell = quiet if options.json else lambda found: print(line_of(found))
    sketches = Sketches() if options.html else None
    diagnosis = diagnose(case, tell, steps_judged, sketches, blocks)
    if sketches:
        name = Path(options.theirs).resolve().name
        Path(options.html).write_text(diagnosis_page(diagnosis, sketches, name), encoding="utf-8")
    if options.json:
        print(json.dumps(diagnosis.as_json()))
    else:
        print("\n".join(report(diagnosis)))
    return diagnosis.exit_status


def _case_of(options: argparse.Namespace) -> "Case":
    """Open what is to be diagnosed, and load the engine that it is judged by."""
    import torch

    from svd_engine.conformance.guess import with_guessed_names
    from svd_engine.conformance.replay import Case
    from svd_engine.conformance.traces import open_trace
    from svd_engine.engine import Engine
    from svd_engine.picture_files import open_picture
    from svd_engine.picture_pixels import fit_picture

    _keep_float32()
    with reading():
        theirs = open_trace(Path(options.theirs))
        picture = open_picture(options.picture)
        engine = Engine.from_pretrained(
            options.model, options.device, torch.float32, options.variant
        )
    params = _params_of(options, theirs.about).resolve(engine.defaults)
    assert params.width is not None
    assert params.height is not None
    image = fit_picture(picture, params.width, params.height, params.fit)
    dtype = getattr(torch, theirs.about.get("dtype", options.dtype))
    return with_guessed_names(Case(theirs, engine, image, params, dtype))


def _count(text: str) -> int | None:
    """How many steps to judge; None means all."""
    if text == "all":
        return None
    if not text.isdecimal() or int(text) == 0:
        raise ValueError(f"--steps-judged: give a number from 1 on, or all; got {text!r}")
    return int(text)


def _params_of(options: argparse.Namespace, about: Mapping[str, Any]) -> RenderParams:
    """The params in the trace's header, overridden by those given as options."""
    recorded = {k: v for k, v in about.get("params", {}).items() if k != "deviations"}
    known = {name: value for name, value in recorded.items() if name not in given_params(options)}
    return params_from(options, **known)
