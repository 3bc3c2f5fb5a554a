"""A job's progress as a bar, on a terminal or in a notebook."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm.auto import tqdm

from farm.model.wire import Video


@contextmanager
def open_bar(first: Video, shown: bool | None) -> Iterator[Callable[[Video], None]]:
    """Open a progress bar for a job; yields a function that updates it.

    shown: whether to show it. None: if standard error is a terminal, and in a notebook.
    """
    if shown is None:
        shown = sys.stderr.isatty() or in_notebook()
    bar = tqdm(
        desc=first.id,
        total=first.work.steps,
        unit="step",
        file=sys.stderr,
        disable=not shown,
        dynamic_ncols=True,
    )

    def show(video: Video) -> None:
        progress = video.work
        # The bar never goes back if an attempt is lost, and is full only when the job is finished.
        most = progress.steps - 1 if video.state.is_open else progress.steps
        bar.total, bar.n = progress.steps, min(max(bar.n, progress.step), most)
        bar.set_postfix_str(describe(video))

    try:
        show(first)
        yield show
    finally:
        bar.close()


def describe(video: Video) -> str:
    """A job's progress in a few words."""
    progress = video.work
    if not video.state.is_open:
        return video.state.value
    words = [progress.stage.value if progress.stage else video.state.value]
    if progress.queue_position is not None:
        place = f"{progress.queue_position} before it" if progress.queue_position else "next"
        words = [video.state.value, place]
    if progress.blocked:
        words.append(progress.blocked)
    if progress.eta_s is not None:
        words.append(f"{progress.eta_s:.0f} s left")
    return ", ".join(words)


def in_notebook() -> bool:
    """Whether this process is a Jupyter kernel, whose standard error is not a terminal."""
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", None)
    shell = get_ipython() if get_ipython else None
    return shell is not None and "IPKernelApp" in shell.config
