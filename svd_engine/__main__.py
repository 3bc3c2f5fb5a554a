"""The command line: `python -m svd_engine COMMAND`, with the commands in `COMMANDS` below."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from svd_engine.arguments import (
    add_device_option,
    add_model_options,
    add_param_options,
    params_from,
)
from svd_engine.command_line import STATUSES, InputError, Parser, name_of, reading, run
from svd_engine.completion import add_completion
from svd_engine.conformance import commands as conformance
from svd_engine.conformance.commands import Commands
from svd_engine.nearest import no_such
from svd_engine.params import RenderParams
from svd_engine.video import SUFFIXES

if TYPE_CHECKING:
    from svd_engine.engine import Engine

SCRIPT = "svd-engine"
BAR = "{percentage:3.0f}%|{bar}| {desc} [{elapsed}]"  # of `render`
COMPARED = ("tier", "reuse_interval", "num_inference_steps", "sigmas")  # `tiers` sets them
RENDER_EXAMPLES = """\
examples:
  %(prog)s photo.jpg --out clip.mp4
  %(prog)s photo.jpg --model svd-xt --variant fp16 --device cuda \\
      --dtype float16 --decode-chunk-size 8 --seed 42 --out clip.mp4
  %(prog)s photo.jpg --model ./my-checkpoint --fit crop --out frames/
  %(prog)s photo.jpg --tier fast --out draft.mp4   # 10 steps, not exact

"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, and return its exit status; see `command_line`."""
    parser = _parser()
    options = parser.parse_args(arguments)
    return run(lambda: COMMANDS[options.command](options))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        name_of("svd_engine", SCRIPT),
        description="Stable Video Diffusion: a picture becomes a clip.",
        epilog=f"{STATUSES}; of compare and diagnose, 1 also means that something departs",
    )
    add_completion(parser, SCRIPT)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_tiny(commands)
    _add_render(commands)
    conformance.add_commands(commands)
    _add_memory(commands)
    _add_bench(commands)
    _add_tiers(commands)
    return parser


def _add_tiny(commands: Commands) -> None:
    tiny = commands.add_parser(
        "tiny", help="write a small checkpoint with random weights", epilog=STATUSES
    )
    tiny.add_argument("folder", metavar="DIR", help="a new or empty folder")
    tiny.add_argument("--seed", type=int, default=0, help="seed of the weights (default: 0)")


def _add_render(commands: Commands) -> None:
    render = commands.add_parser(
        "render",
        help="turn a picture into a video",
        description="Turn a picture into a video.",
        epilog=RENDER_EXAMPLES + STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    render.add_argument("picture", metavar="PICTURE", help="jpeg, png, webp, avif, tiff, gif, bmp")
    render.add_argument(
        "--out",
        required=True,
        metavar="PATH",
        help="the suffix chooses: .mp4 .webm .gif .webp, or none for a folder of .png",
    )
    add_model_options(render)
    add_device_option(render)
    add_param_options(render)


def _add_memory(commands: Commands) -> None:
    memory = commands.add_parser(
        "memory",
        help="how much memory each stage of a clip needs",
        description="How much memory each stage of a clip needs. This takes neither weights nor a "
        "GPU.",
        epilog=STATUSES,
    )
    add_model_options(memory)
    add_device_option(memory)
    add_param_options(memory)


def _add_bench(commands: Commands) -> None:
    bench = commands.add_parser(
        "bench", help="time the engine's stages, beside diffusers'", epilog=STATUSES
    )
    bench.add_argument("--preset", default="cpu-mid", help="tiny, nano, cpu-mid, svd, svd-xt")
    bench.add_argument("--against", choices=("diffusers",), help="what to compare with")
    add_device_option(bench)
    bench.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float32")
    bench.add_argument("--budget", type=float, default=300.0, help="seconds (default: 300)")
    bench.add_argument("--json", type=Path, metavar="FILE", help="rewritten after each row")
    bench.add_argument("--plot", type=Path, metavar="FILE", help="a plot, such as bench.png")
    bench.add_argument("--profile", action="store_true", help="the ten costliest kernels of a step")


def _add_tiers(commands: Commands) -> None:
    tiers = commands.add_parser(
        "tiers", help="time the approximate tiers, and compare them with exact", epilog=STATUSES
    )
    tiers.add_argument("pictures", nargs="+", metavar="PICTURE")
    add_model_options(tiers)
    add_device_option(tiers)
    add_param_options(tiers, leave_out=COMPARED)


def _tiny(options: argparse.Namespace) -> int:
    from svd_engine.tiny import write_tiny

    try:
        print(write_tiny(options.folder, options.seed))
    except FileExistsError as error:
        raise InputError(str(error)) from error
    return 0


def _bench(options: argparse.Namespace) -> int:
    from svd_engine.bench.networks import PRESETS
    from svd_engine.bench.run import Bench

    if options.preset not in PRESETS:
        raise ValueError(f"--preset: {no_such('preset', options.preset, PRESETS)}")
    Bench(
        options.preset,
        options.device,
        options.dtype,
        options.against is not None,
        options.budget,
        options.json,
        options.plot,
    ).run(options.profile)
    return 0


def _tiers(options: argparse.Namespace) -> int:
    params = params_from(options)
    from svd_engine.bench.tier_comparison import compare, table
    from svd_engine.picture_files import open_picture

    with reading():
        pictures = [open_picture(path) for path in options.pictures]
        engine = _engine(options)
    print("\n".join(table(compare(engine, pictures, params))))
    return 0


def _engine(options: argparse.Namespace) -> "Engine":
    import torch

    from svd_engine.engine import Engine

    dtype = getattr(torch, options.dtype)
    return Engine.from_pretrained(options.model, options.device, dtype, options.variant)


def _memory(options: argparse.Namespace) -> int:
    params = params_from(options)
    import torch

    from svd_engine.memory_plan import memory_plan
    from svd_engine.memory_table import shapes_of, table

    with reading():
        shapes, defaults = shapes_of(options.model)
    dtype = getattr(torch, options.dtype)
    print(table(memory_plan(shapes, params.resolve(defaults), options.device, dtype)))
    return 0


def _check(options: argparse.Namespace) -> RenderParams:
    """Check the options before the work begins, and return the parameters."""
    suffix = Path(options.out).suffix
    if suffix.lower() not in SUFFIXES:
        raise ValueError(f"--out: cannot write {suffix!r}, only {' '.join(SUFFIXES).strip()}")
    return params_from(options)


def _render(options: argparse.Namespace) -> int:
    params = _check(options)
    from tqdm import tqdm

    from svd_engine.picture_files import open_picture

    out = Path(options.out)
    with reading():
        picture = open_picture(options.picture)
        engine = _engine(options)
    # Decoding and storing follow the steps, and are a part of the bar from the start.
    with tqdm(total=params.steps + 2, desc=f"{out.name}: encoding", bar_format=BAR) as bar:

        def say(words: str) -> None:
            bar.set_description_str(f"{out.name}: {words}", refresh=False)

        def show(done: int, _latents: object) -> None:
            last = done == params.steps
            say("decoding" if last else f"denoising, step {done} of {params.steps}")
            bar.update()

        clip = engine.render(picture, params, on_step=show)
        say("storing")
        bar.update()
        saved = clip.save(out)
        say("done")
        bar.update()
    print(saved)
    return 0


COMMANDS = {
    "render": _render,
    "tiny": _tiny,
    "trace": conformance.trace,
    "compare": conformance.compare,
    "diagnose": conformance.diagnose,
    "memory": _memory,
    "bench": _bench,
    "tiers": _tiers,
}

if __name__ == "__main__":
    sys.exit(main())
