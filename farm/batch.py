"""`python -m farm.batch`: many pictures in, many clips out; run again, it does what is missing."""

import argparse
import asyncio
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from farm.contact_sheet import contact_sheet
from farm.errors import FarmError, RequestError, StoreError
from farm.inputs import Picture, find_pictures, name_pictures, parse_seeds, readable
from farm.plan import plan
from farm.progress import Reporter, open_reporter
from farm.request import Model, ModelFacts, RenderRequest, digest_of
from farm.store import Store, open_store
from farm.summary import Row, Summary
from svd_engine.arguments import add_model_options, add_param_options, params_from
from svd_engine.params import RenderParams

if TYPE_CHECKING:
    from farm.cluster import Cluster, Rendered

EXAMPLES = """\
examples:
  python -m farm.batch examples/pictures --out demo
  python -m farm.batch 'photos/*.jpg' --out clips --seeds 0-3 --model svd-xt \\
      --variant fp16 --dtype float16 --decode-chunk-size 8
  ray job submit --working-dir . -- python -m farm.batch examples/pictures --out /shared/clips

a model that is a folder must be there on every node of the cluster
exit status: 0 every clip is done, 1 some failed, 2 wrong usage
"""


@dataclass(frozen=True)
class Clip:
    """One clip of the batch: a picture, and parameters with nothing left open."""

    picture: Picture
    params: RenderParams
    model: Model
    facts: ModelFacts

    @property
    def request(self) -> RenderRequest:
        return RenderRequest(
            picture=self.picture.digest,
            weights=self.facts.digest,
            dtype=self.model.dtype,
            params=self.params,
        )

    def is_done(self, summary: Summary) -> bool:
        if not self.picture.digest:
            return False
        return summary.is_done(self.picture.name, self.params.seed, self.request.digest)


@dataclass(frozen=True)
class Batch:
    """What was asked for on the command line."""

    store: Store
    summary: Summary
    model: Model
    pictures: Sequence[Picture]
    params: RenderParams
    seeds: Sequence[int]
    workers: int | None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a batch; 0 every clip is done, 1 some failed, 2 wrong usage."""
    parser = _parser()
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(name)s: %(message)s")
    try:
        batch = _batch_of(options)
    except (ValueError, RequestError, StoreError) as error:
        parser.error(str(error))
    try:
        return asyncio.run(_run(batch))
    except RequestError as error:
        parser.error(str(error))
    except FarmError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; run it again to go on with what is missing", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m farm.batch",
        description="Turn pictures into clips, on the Ray cluster this runs in or on this machine.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("pictures", nargs="+", metavar="PICTURES", help="files, folders or globs")
    add("--out", required=True, metavar="DEST", help="a folder, or file:///folder")
    add_model_options(parser)
    add("--seeds", default="0", metavar="N-M,...", help="a clip of each picture for each (0)")
    add(
        "--workers",
        type=_positive,
        metavar="N",
        help="how many (default: one per GPU, or one per node where there are none)",
    )
    add_param_options(parser, leave_out=("seed",))
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, got {text!r}")
    return int(text)


def _batch_of(options: argparse.Namespace) -> Batch:
    """The parsed options, checked; ValueError or a FarmError says which one is wrong."""
    params = params_from(options)
    seeds = parse_seeds(options.seeds)
    paths = find_pictures(options.pictures)
    store = open_store(options.out)
    if any(str(path.absolute().parent) == store.where() for path in paths):
        raise RequestError("--out: give another folder than the pictures'; it gets pictures too")
    # A worker's working directory is not this one.
    folder = Path(options.model).is_dir()
    name = str(Path(options.model).absolute()) if folder else options.model
    model = Model(name=name, variant=options.variant, dtype=options.dtype)
    pictures = name_pictures(paths)
    return Batch(store, Summary(store), model, pictures, params, seeds, options.workers)


async def _run(batch: Batch) -> int:
    from farm.cluster import Cluster, describe_model, join_cluster

    summary = batch.summary
    join_cluster()
    facts = await describe_model(batch.model)
    params = batch.params.resolve(facts.defaults)
    clips = [
        Clip(picture, params.model_copy(update={"seed": seed}), batch.model, facts)
        for picture in batch.pictures
        for seed in batch.seeds
    ]
    todo = [clip for clip in clips if not clip.is_done(summary)]
    done = len(clips) - len(todo)
    with open_reporter(len(clips), done, steps=params.steps * len(todo)) as reporter:
        if todo:
            async with Cluster(batch.model, batch.workers) as cluster:
                # A few more than there are renderers: one clip decodes while the next denoises.
                slots = asyncio.Semaphore(2 * len(cluster.renderers.actors))
                await asyncio.gather(
                    *(
                        _render(clip, slots, cluster, batch.store, summary, reporter)
                        for clip in todo
                    )
                )
    batch.store.put("index.html", contact_sheet(summary.rows).encode())
    done = sum(clip.is_done(summary) for clip in clips)
    print(f"{done} of {len(clips)} clips are done; watch them: {batch.store.where('index.html')}")
    return 0 if done == len(clips) else 1


async def _render(
    clip: Clip,
    slots: asyncio.Semaphore,
    cluster: "Cluster",
    store: Store,
    summary: Summary,
    reporter: Reporter,
) -> None:
    """Render a clip, write it, and tell of it; whatever it runs into, the others go on."""
    picture = clip.picture
    row = Row(
        name=picture.name,
        picture=readable(picture.path),
        seed=clip.params.seed,
        status="failed",
        parameters=clip.params,
    )
    try:
        async with slots:
            data, request = _read(picture), clip.request
            progress = partial(reporter.progress, row.title)
            rendered = await cluster.render(request, plan(request), data, progress)
        row = _write(row, request, rendered, store, summary)
    except FarmError as error:
        row = row.model_copy(update={"error": str(error)})
    except Exception as error:
        logging.getLogger("farm").exception("%s", row.title)
        row = row.model_copy(update={"error": f"{type(error).__name__}: {error}"})
    summary.add(row)
    reporter.finished(row)


def _write(
    row: Row, request: RenderRequest, rendered: "Rendered", store: Store, summary: Summary
) -> Row:
    """Write the clip's files; the row that names them."""
    # The former row must not name these files, should this end between the two.
    summary.remove(row)
    store.put(row.video, rendered.video)
    store.put(row.thumbnail, rendered.thumbnail)
    result = {
        "status": "done",
        "sha256": rendered.sha256,
        "seconds": rendered.seconds,
        "worker": rendered.worker,
        "digest": request.digest,
    }
    return row.model_copy(update=result)


def _read(picture: Picture) -> bytes:
    """The file's bytes, which must be those that were named."""
    if picture.error:
        raise RequestError(picture.error)
    try:
        data = picture.path.read_bytes()
    except OSError as error:
        raise RequestError(f"cannot read {picture.path}: {error.strerror}") from error
    if digest_of(data) != picture.digest:
        raise RequestError(f"{picture.path} was changed while the batch ran; run it again")
    return data


if __name__ == "__main__":
    sys.exit(main())
