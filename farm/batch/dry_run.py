"""`--dry-run`: what a batch would render, which pictures would fail, and how long it would take."""

from collections.abc import Mapping, Sequence

from farm.batch.inputs import Picture, read
from farm.batch.runner import Batch, Clip
from farm.errors import RequestError
from farm.model.request import RenderRequest, digest_of
from farm.quantities import counted, lasting
from farm.scheduling.estimate import Pace
from svd_engine.params import RenderParams
from svd_engine.picture_files import open_picture


def dry_run(
    batch: Batch,
    clips: Sequence[Clip],
    why_todo: Mapping[str, str],
    workers: int,
    max_pixels: int,
) -> list[str]:
    """Describe a batch in lines: each clip, each file that is left out, and a summary.

    why_todo: the clips that are not done, by title, with any damage to their files. workers: the
    number of workers to estimate the time for. max_pixels: the largest picture allowed.
    """
    faults = {p.name: _fault(p, max_pixels) for p in batch.pictures}
    lines = [_line(clip, faults[clip.picture.name], why_todo) for clip in clips]
    for text, listing in batch.listings.items():
        lines += (f"left out of {text}: {source}: {why}" for source, why in listing.left_out)
    todo = [clip for clip in clips if clip.title in why_todo and not faults[clip.picture.name]]
    failing = sum(bool(faults[clip.picture.name]) for clip in clips)
    steps = sum(clip.params.steps for clip in todo)
    done = len(clips) - len(todo) - failing
    summary = f"{counted(len(clips), 'clip')}, {done} done; {len(todo)} to render"
    summary += f", {counted(steps, 'UNet step')}"
    if failing:
        summary += f"; {failing} would fail"
    return [*lines, f"{summary}; {_time(batch, todo, workers)}" if todo else summary]


def _fault(picture: Picture, max_pixels: int) -> str:
    """Why a picture cannot be rendered; empty if it can."""
    try:
        open_picture(read(picture), max_pixels)
    except (RequestError, ValueError) as error:
        return str(error)
    return ""


def _line(clip: Clip, fault: str, why_todo: Mapping[str, str]) -> str:
    p = clip.params
    what = "done"
    if clip.title in why_todo:
        what = counted(p.steps, "step")
        if why_todo[clip.title]:
            what = f"{why_todo[clip.title]}: to be fetched again, or rendered in {what}"
    if fault:
        what = f"would fail: {fault}"
    return f"{clip.title}: {p.width} x {p.height}, {counted(p.frames, 'frame')}: {what}"


def _time(batch: Batch, todo: Sequence[Clip], workers: int) -> str:
    """Estimate the time from the clips that earlier runs rendered here with this model."""
    pace = Pace()
    for row in batch.summary.rows:
        if row.status == "done" and row.model in (batch.model.name, None):
            request = _request(row.parameters, batch)
            pace.observe_clip(request, row.seconds)
    times = [pace.left(_request(clip.params, batch)) for clip in todo]
    known = [seconds for seconds in times if seconds is not None]
    if len(known) < len(times):
        return "the time is unknown: no clip of this model was rendered here yet"
    longest = max(max(known), sum(known) / max(1, workers))
    return f"about {lasting(longest)} on {counted(max(1, workers), 'worker')}"


def _request(params: RenderParams, batch: Batch) -> RenderRequest:
    """A request with placeholders for picture and weights, which do not affect its time."""
    placeholder = digest_of(b"")
    return RenderRequest.model_construct(
        picture=placeholder, weights=placeholder, dtype=batch.model.dtype, params=params
    )
