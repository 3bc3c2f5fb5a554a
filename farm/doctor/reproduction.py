"""The command that renders a job's clips again."""

import shlex

from farm.model.job import JobRecord
from svd_engine.arguments import option
from svd_engine.params import RenderParams
from svd_engine.reader import LISTS
from svd_engine.values import as_label, as_text

PICTURE = "picture"  # the file in which the command expects the picture


def command_of(job: JobRecord, picture: str) -> str:
    """A script with the command. picture: where the job's picture is, for people."""
    request = job.request
    last = request.params.seed + request.num_videos - 1
    seeds = f"{request.params.seed}-{last}" if request.num_videos > 1 else f"{last}"
    words = ["python", "-m", "farm.batch", PICTURE, "--out", "clips", "--model", job.model.name]
    words += ["--variant", job.model.variant] if job.model.variant else []
    words += ["--dtype", job.model.dtype, "--seeds", seeds, *_options(request.params)]
    return (
        f"# The picture is not in this archive. Save it as {PICTURE!r}: {picture}\n"
        f"# The job's clips have the numerics {request.numerics}.\n{shlex.join(words)}\n"
    )


def _options(params: RenderParams) -> list[str]:
    """The options for all parameters that do not have their defaults."""
    words = []
    for name, field in RenderParams.model_fields.items():
        value = getattr(params, name)
        if name == "seed" or value == field.default or value is None:
            continue
        if name in LISTS:
            text = ",".join(map(as_text, value))
        else:
            text = as_label(value) if isinstance(value, tuple) else as_text(value)
        words += [option(name), text]
    return words
