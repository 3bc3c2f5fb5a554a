"""The options of `python -m farm.batch`, its help, and which of them contradict each other."""

import argparse
import glob
from pathlib import Path

from svd_engine.arguments import add_model_options, add_param_options
from svd_engine.command_line import Parser, name_of, positive
from svd_engine.completion import add_completion

SCRIPT = "farm-batch"
EXAMPLES = """\
examples:
  %(prog)s examples/pictures --out demo
  %(prog)s 'photos/*.jpg' --out clips --seeds 0-3 --model svd-xt \\
      --variant fp16 --dtype float16 --decode-chunk-size 8
  %(prog)s cat.png --out sweep --seeds 0-7 --motion-bucket-id 40,127,200
  %(prog)s photos/ --out drafts --tier fast   # 10 steps, not exact
  %(prog)s photos/ --out clips --detach   # again without it fetches the clips
  %(prog)s s3://bucket/photos/ rows.csv --out s3://bucket/clips --store s3://bucket/farm
  %(prog)s inbox/ --out clips --recursive --watch    # whatever arrives, until Ctrl-C
  ray job submit --working-dir . -- python -m farm.batch examples/pictures --out /shared/clips

each row of a manifest (.csv, .jsonl) names a picture and its own parameters
a model that is a folder must exist on every node of the cluster
exit status: 0 every clip is done, 1 some failed, 2 wrong usage, 130 stopped
"""


def batch_parser() -> Parser:
    """The parser of all options."""
    parser = Parser(
        name_of("farm.batch", SCRIPT),
        description="Turn pictures into clips, on the Ray cluster this runs in or on this machine.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_completion(parser, SCRIPT)
    add = parser.add_argument
    add("pictures", nargs="+", metavar="PICTURES", help="files, folders, globs, s3:// or manifests")
    add("--out", required=True, metavar="DEST", help="a folder, file:///folder or s3://bucket/...")
    add(
        "--recursive",
        action="store_true",
        help="enter the folders below, and keep them in the output",
    )
    add(
        "--watch",
        action="store_true",
        help="go on with what arrives at the inputs, until Ctrl-C",
    )
    add("--zip", metavar="FILE", help="also write all files of the output to this archive")
    add("--store", metavar="URL", help="where the farm keeps its jobs (default: FARM_STORE)")
    add_model_options(parser)
    add(
        "--seeds",
        default="0",
        metavar="N-M,...",
        help="a clip of each picture for each seed (default: 0)",
    )
    add("--priority", default="50", metavar="N", help="0 to 100 (default: 50)")
    _add_ways(parser)
    add_param_options(parser, leave_out=("seed",), several=True)
    return parser


def _add_ways(parser: Parser) -> None:
    """Add the options for how a batch is run, which leave its clips as they are."""
    add = parser.add_argument
    add("--force", action="store_true", help="render again, even if the clips exist")
    add("--verify", action="store_true", help="read existing clips and compare their digests")
    add(
        "--dry-run",
        action="store_true",
        help="only report what would be done or fail, and how long it would take",
    )
    add(
        "--detach",
        action="store_true",
        help="submit to a farm that outlives this program, and return",
    )
    add(
        "--workers",
        type=positive,
        metavar="N",
        help="how many, if this starts the farm (default: one per GPU, or one per node)",
    )


def check_together(options: argparse.Namespace) -> None:
    """Raise ValueError for options that contradict each other, or an archive that cannot be."""
    for one in ("watch", "zip"):
        for other in ("dry_run", "detach"):
            if getattr(options, one) and getattr(options, other):
                raise ValueError(f"--{one} renders here: give no --{other.replace('_', '-')}")
    for text in options.pictures if options.watch else ():
        if "://" not in text and not glob.has_magic(text) and not Path(text).exists():
            raise ValueError(f"--watch: there is nothing at {text!r}; make the folder first")
    if options.watch and options.force:
        raise ValueError("--watch renders what arrives once: give no --force")
    if options.zip and Path(options.zip).suffix.lower() != ".zip":
        raise ValueError(f"--zip: give a file whose name ends with .zip, got {options.zip!r}")
    if options.zip and not Path(options.zip).absolute().parent.is_dir():
        raise ValueError(f"--zip: there is no folder {Path(options.zip).absolute().parent}")
