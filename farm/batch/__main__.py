"""`python -m farm.batch` renders clips of many pictures; another run renders what is missing."""

import argparse
import logging
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from farm.batch.archive import PAGE, write_archive
from farm.batch.arrivals import LOOK_EVERY_S, Arrivals
from farm.batch.contact_sheet import contact_sheet
from farm.batch.dry_run import dry_run
from farm.batch.inputs import Inputs, find_pictures
from farm.batch.listing import Search
from farm.batch.manifest import refuse
from farm.batch.options import SCRIPT, batch_parser, check_together
from farm.batch.progress import Reporter, open_reporter
from farm.batch.runner import Batch, BatchRun, Clip
from farm.batch.source import place_of
from farm.batch.summary import Summary
from farm.batch.sweep import Sweep, parse_sweep
from farm.client.farm import Farm
from farm.errors import ConditionsError, FarmError, RequestError, StoreError, WorkerError
from farm.logs import log_to_stderr
from farm.masking import mask_urls
from farm.model.parameters import ParameterError, submission_of
from farm.model.plan import Kind
from farm.model.request import Model, ModelFacts, RenderRequest
from farm.quantities import counted
from farm.settings import Settings, known_secrets, load_settings
from farm.store import Store, open_store
from svd_engine.arguments import given_params
from svd_engine.command_line import name_of, one_line, reading
from svd_engine.params import RenderParams


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a batch; its exit status is described in the help."""
    parser = batch_parser()
    options = parser.parse_args(arguments)
    try:
        settings = load_settings(store=options.store, workers=options.workers)
        log_to_stderr(settings.log_format, known_secrets(settings), command=True)
        search = _search_of(options, settings)
        batch = _batch_of(options, search, sys.argv[1:] if arguments is None else arguments)
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
        if options.watch:
            clips = _watch(farm, batch, facts, Arrivals(options.pictures, search))
        else:
            _render(farm, batch, clips)
        return _conclude(batch, clips, options.zip)
    except (FarmError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _search_of(options: argparse.Namespace, settings: Settings) -> Search:
    """How to search the inputs: not where this batch and the farm write."""
    outputs = set()
    for url in (options.out, settings.store):
        with suppress(RequestError):  # opening it says what is wrong with it
            outputs.add(place_of(url))
    return Search(options.recursive, frozenset(outputs))


def _batch_of(options: argparse.Namespace, search: Search, given: Sequence[str]) -> Batch:
    """The validated options. Raises ValueError or a FarmError, which names the one at fault."""
    check_together(options)
    sweep = parse_sweep(given_params(options), options.seeds)
    try:
        priority = submission_of({"priority": options.priority}).priority
    except ParameterError as error:
        raise RequestError(f"--{error}") from error
    inputs = Inputs([], {})
    if not options.watch:
        with reading():
            inputs = _checked(find_pictures(options.pictures, search), sweep)
        for text, listing in inputs.listings.items():
            if left_out := listing.say_left_out():
                print(f"{text}: {left_out} (--dry-run names them)", file=sys.stderr)
    out = open_store(options.out)
    _refuse_among_inputs(out, options, inputs)
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
        command=mask_urls(shlex.join([*name_of("farm.batch", SCRIPT).split(), *given])),
    )


def _refuse_among_inputs(out: Store, options: argparse.Namespace, inputs: Inputs) -> None:
    """Raise RequestError if the outputs would be among the pictures."""
    folders = {picture.origin.folder for picture in inputs.pictures}
    if options.watch:
        folders = {place_of(text) for text in options.pictures}
    if out.where().rstrip("/") in folders:
        raise RequestError("--out: give another folder than the pictures'; it gets pictures too")


def _checked(inputs: Inputs, sweep: Sweep) -> Inputs:
    """The inputs. Raises RequestError, which has every row that contradicts the command line."""
    faults = []
    for picture in inputs.pictures:
        try:
            sweep.pin(picture.params)
        except ValueError as error:
            faults.append(f"{picture.name}: its row contradicts the command line: {error}")
    refuse(faults)
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


def _watch(farm: Farm, batch: Batch, facts: ModelFacts, arrivals: Arrivals) -> list[Clip]:
    """Render what arrives until Ctrl-C while nothing is rendered; returns all clips."""
    print("watching for pictures; Ctrl-C ends it", file=sys.stderr)
    clips: dict[str, Clip] = {}
    while (inputs := _next_arrivals(arrivals, batch.sweep)) is not None:
        arrived = replace(batch, pictures=inputs.pictures, listings=inputs.listings)
        new = _clips_of(arrived, facts)
        clips |= {clip.title: clip for clip in new}
        _render(farm, arrived, new)
    return [*clips.values()]


def _next_arrivals(arrivals: Arrivals, sweep: Sweep) -> Inputs | None:
    """Wait for pictures; None at Ctrl-C. What is wrong with the inputs is reported once."""
    reported = ""
    try:
        while True:
            try:
                if inputs := arrivals.look():
                    return _checked(inputs, sweep)
                reported = ""
            except (RequestError, StoreError, OSError) as error:
                if str(error) != reported:
                    print(f"{one_line(str(error))}; still watching", file=sys.stderr)
                reported = str(error)
            time.sleep(LOOK_EVERY_S)
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return None


def _render(farm: Farm, batch: Batch, clips: Sequence[Clip]) -> None:
    """Render the clips that are missing."""
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
    batch.out.put(PAGE, contact_sheet(batch.summary.rows, batch.command, time.time()).encode())


def _conclude(batch: Batch, clips: Sequence[Clip], archive: str | None) -> int:
    """Write the archive, say how many clips are done, and return the exit status."""
    done = len(_done(batch, clips))
    print(f"{_sum(done, clips)}; watch them: {batch.out.where(PAGE)}")
    if archive:
        archived = write_archive(batch.out, batch.summary.rows, Path(archive))
        print(f"the archive {archive} has {counted(archived, 'clip')}")
    return 0 if done == len(clips) else 1


def _sum(done: int, clips: Sequence[Clip]) -> str:
    return f"{done} of {counted(len(clips), 'clip')} {'is' if len(clips) == 1 else 'are'} done"


if __name__ == "__main__":
    sys.exit(main())
