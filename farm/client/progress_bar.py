"""A job's progress as a bar, on a terminal or in a notebook."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm.auto import tqdm

from farm.model.job import Progress, State
from farm.model.wire import Video

# Steps, chunks and storing take different times: a share of them is clearer than a count.
BAR = "{percentage:3.0f}%|{bar}| {desc} [{elapsed}]"


@contextmanager
def open_bar(first: Video, shown: bool | None) -> Iterator[Callable[[Video], None]]:
    """Open a progress bar for a job; yields a function that updates it.

    shown: whether to show it. None: if standard error is a terminal, and in a notebook.
    """
    if shown is None:
        shown = sys.stderr.isatty() or in_notebook()
    bar = tqdm(
        desc=first.id,
        total=_units(first.work)[1],
        bar_format=BAR,
        file=sys.stderr,
        disable=not shown,
        dynamic_ncols=True,
    )

    def show(video: Video) -> None:
        done, whole = _units(video.work)
        # The bar never goes back if an attempt is lost, and is full only when the job is finished.
        bar.total, bar.n = whole, max(bar.n, done) if video.state.is_open else whole
        bar.set_description_str(f"{video.id}: {describe(video)}")

    try:
        show(first)
        yield show
    finally:
        bar.close()


def _units(progress: Progress) -> tuple[int, int]:
    """How much of a job is done, and how much there is: steps, chunks, and the storing."""
    return progress.step + progress.chunk, progress.steps + progress.chunks + 1


def describe(video: Video) -> str:
    """A job's progress in a few words."""
    if video.state in (State.PAUSED, State.CANCELLING) or not video.state.is_open:
        return video.state.value
    return str(video.work)


def in_notebook() -> bool:
    """Whether this process is a Jupyter kernel, whose standard error is not a terminal."""
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", None)
    shell = get_ipython() if get_ipython else None
    return shell is not None and "IPKernelApp" in shell.config
