"""`python -m farm.batch` renders clips of many pictures; another run renders what is missing."""

import argparse
import logging
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from farm.batch.contact_sheet import contact_sheet
from farm.batch.dry_run import dry_run
from farm.batch.inputs import Inputs, find_pictures
from farm.batch.manifest import refuse
from farm.batch.progress import Reporter, open_reporter
from farm.batch.runner import Batch, BatchRun, Clip
from farm.batch.summary import Summary
from farm.batch.sweep import Sweep, parse_sweep
from farm.client.farm import Farm
from farm.errors import ConditionsError, FarmError, RequestError, StoreError, WorkerError
from farm.logs import log_to_stderr
from farm.model.parameters import ParameterError, submission_of
from farm.model.plan import Kind
from farm.model.request import Model, ModelFacts, RenderRequest
from farm.quantities import counted
from farm.settings import Settings, known_secrets, load_settings
from farm.store import open_store
from svd_engine.arguments import (
    add_model_options,
    add_param_options,
    given_params,
)
from svd_engine.command_line import Parser, name_of, positive, reading
from svd_engine.completion import add_completion
from svd_engine.params import RenderParams

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
  ray job submit --working-dir . -- python -m farm.batch examples/pictures --out /shared/clips

each row of a manifest (.csv, .jsonl) names a picture and its own parameters
a model that is a folder must exist on every node of the cluster
exit status: 0 every clip is done, 1 some failed, 2 wrong usage, 130 stopped
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a batch; its exit status is described in EXAMPLES."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        settings = load_settings(store=options.store, workers=options.workers)
        log_to_stderr(settings.log_format, known_secrets(settings), command=True)
        batch = _batch_of(options)
        farm = _connect(settings, options.detach and not options.dry_run)
        facts = farm.describe(batch.model)
        for warning in facts.warnings:
            logging.getLogger("farm").warning("%s", warning)
        clips = _clips_of(batch, facts)
    except KeyboardInterrupt:
        return 130
    except (ValueError, RequestError, StoreError) as error:
        parser.refuse(str(error))
    except FarmError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    try:
        if options.dry_run:
            return _dry_run(farm, batch, clips, settings)
        if options.detach:
            return _hand_over(farm, batch, clips)
        return _run(farm, batch, clips)
    except FarmError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> Parser:
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
    add("--store", metavar="URL", help="where the farm keeps its jobs (default: FARM_STORE)")
    add_model_options(parser)
    add(
        "--seeds",
        default="0",
        metavar="N-M,...",
        help="a clip of each picture for each seed (default: 0)",
    )
    add("--priority", default="50", metavar="N", help="0 to 100 (default: 50)")
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
    add_param_options(parser, leave_out=("seed",), several=True)
    return parser


def _batch_of(options: argparse.Namespace) -> Batch:
    """The validated options. Raises ValueError or a FarmError, which names the one at fault."""
    sweep = parse_sweep(given_params(options), options.seeds)
    try:
        priority = submission_of({"priority": options.priority}).priority
    except ParameterError as error:
        raise RequestError(f"--{error}") from error
    inputs = _inputs_of(options.pictures, sweep)
    out = open_store(options.out)
    if any(picture.origin.folder == out.where().rstrip("/") for picture in inputs.pictures):
        raise RequestError("--out: give another folder than the pictures'; it gets pictures too")
    with suppress(ConditionsError):  # only the farm's own store needs conditional writes
        out.check()
    # Workers have another working directory.
    name = str(Path(options.model).absolute()) if _is_path(options.model) else options.model
    model = Model(name=name, variant=options.variant, dtype=options.dtype)
    summary = Summary(out)
    if summary.damage:
        print(f"{summary.damage}: it is written anew", file=sys.stderr)
    return Batch(
        out=out,
        summary=summary,
        model=model,
        pictures=inputs.pictures,
        listings=inputs.listings,
        sweep=sweep,
        priority=priority,
        force=options.force,
        verify=options.verify,
    )


def _inputs_of(given: Sequence[str], sweep: Sweep) -> Inputs:
    """The pictures. Raises RequestError, which has every row that contradicts the command line."""
    with reading():
        inputs = find_pictures(given)
    faults = []
    for picture in inputs.pictures:
        try:
            sweep.pin(picture.params)
        except ValueError as error:
            faults.append(f"{picture.name}: its row contradicts the command line: {error}")
    refuse(faults)
    for text, listing in inputs.listings.items():
        if left_out := listing.say_left_out():
            print(f"{text}: {left_out} (--dry-run names them)", file=sys.stderr)
    return inputs


def _is_path(model: str) -> bool:
    try:
        return Path(model).exists()
    except OSError:  # too long for a path; loading the model reports it
        return False


def _connect(settings: Settings, detach: bool) -> Farm:
    from farm.client.ray_link import connect
    from farm.workers.detached import ensure_lasting_cluster

    if detach and ensure_lasting_cluster():
        print("started a farm that keeps running; `ray stop` ends it", file=sys.stderr)
    return connect(settings, door="batch")


def _clips_of(batch: Batch, facts: ModelFacts) -> list[Clip]:
    clips = []
    for picture in batch.pictures:
        sweep = batch.sweep.pin(picture.params)
        for combination in sweep.combinations():
            params = RenderParams(**combination).resolve(facts.defaults)
            digest = ""
            if picture.digest:
                digest = RenderRequest(
                    picture=picture.digest,
                    weights=facts.digest,
                    dtype=batch.model.dtype,
                    params=params,
                ).digest
            clips.append(Clip(picture, params, sweep.variation(combination), digest))
    return clips


def _todo(batch: Batch, clips: Sequence[Clip]) -> dict[str, str]:
    """The titles of clips to be made, and what is wrong with the files of those that exist."""
    if batch.force:
        return {clip.title: "" for clip in clips}
    known = {clip.title: clip.digest for clip in clips if clip.digest}
    whys = batch.summary.look(known, batch.verify)
    return {clip.title: why for clip in clips if (why := whys.get(clip.title, "")) is not None}


def _done(batch: Batch, clips: Sequence[Clip]) -> set[str]:
    return batch.summary.done({clip.title: clip.digest for clip in clips if clip.digest})


def _dry_run(farm: Farm, batch: Batch, clips: Sequence[Clip], settings: Settings) -> int:
    kinds = [name for name in farm.status()["workers"] if name.startswith(Kind.RENDERER)]
    todo = _todo(batch, clips)
    for line in dry_run(batch, clips, todo, len(kinds), settings.max_pixels):
        print(line)
    return 0


def _hand_over(farm: Farm, batch: Batch, clips: Sequence[Clip]) -> int:
    """Submit the missing clips, and print how to watch, fetch and stop them."""
    whys = _todo(batch, clips)
    todo = [clip for clip in clips if clip.title in whys]
    run = BatchRun(farm, batch, Reporter(len(clips), len(clips) - len(todo), 0, terminal=False))
    run.submit(todo)
    batch.summary.flush()
    print(
        f"{counted(run.open, 'clip')} submitted, {len(clips) - len(todo)} done already; the farm "
        "keeps running.\nwatch it: python -m farm status; fetch the clips: run this again without "
        "--detach; end it: `ray stop` where it was started"
    )
    return 0 if run.open == len(todo) else 1


def _run(farm: Farm, batch: Batch, clips: Sequence[Clip]) -> int:
    from farm.workers.detached import ends_with_this_process

    whys = _todo(batch, clips)
    todo = [clip for clip in clips if clip.title in whys]
    for title, why in whys.items():
        if why:
            print(f"{title}: {why}: it is fetched again", file=sys.stderr)
    steps = sum(clip.params.steps for clip in todo)
    # If this program is killed, no row of an earlier run may name a file that has changed since.
    batch.summary.remove(*(clip.title for clip in todo))
    with open_reporter(len(clips), len(clips) - len(todo), steps) as reporter:
        run = BatchRun(farm, batch, reporter)
        try:
            run.render(todo)
        except KeyboardInterrupt:
            reporter.close()
            run.interrupted(ends_with_this_process())
            raise
        except WorkerError as error:
            reporter.close()
            batch.summary.flush()
            there = _sum(len(_done(batch, clips)), clips)
            raise WorkerError(f"{error}; run it again: {there}") from error
        finally:
            batch.summary.flush()
    batch.out.put("index.html", contact_sheet(batch.summary.rows).encode())
    done = len(_done(batch, clips))
    print(f"{_sum(done, clips)}; watch them: {batch.out.where('index.html')}")
    return 0 if done == len(clips) else 1


def _sum(done: int, clips: Sequence[Clip]) -> str:
    return f"{done} of {counted(len(clips), 'clip')} {'is' if len(clips) == 1 else 'are'} done"


if __name__ == "__main__":
    sys.exit(main())
