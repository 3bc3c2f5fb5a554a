"""The progress of a batch on standard error: bars on a terminal, plain lines in a log."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from tqdm import tqdm

from farm.batch.summary import Row
from farm.client.progress_bar import BAR
from farm.model.job import JobView
from farm.model.plan import Stage
from farm.quantities import counted

LINE_EVERY_S = 10.0
AFTER = 2  # what follows a clip's steps: decoding and storing


class Reporter:
    """Counts clips and steps, and shows them as two bars on a terminal, or otherwise as lines."""

    def __init__(self, clips: int, done: int, steps: int, terminal: bool) -> None:
        """clips: all clips of the batch. done: those done before. steps: of the remaining clips."""
        self._clips = clips
        self._done = done
        self._steps = steps
        self._steps_done = 0
        self._done_of: dict[str, tuple[int, int]] = {}  # steps, and what comes after, by clip
        self._printed = time.monotonic()  # the time of the last line
        self._clip_bar = _bar("clip", clips, done, 0, terminal)
        # Each clip is decoded and stored after its steps, from the start a part of the bar.
        self._step_bar = _bar("work", steps + AFTER * (clips - done), 0, 1, terminal, BAR)
        self._terminal = terminal
        self._blocked: str | None = None

    def progress(self, clip: str, view: JobView) -> None:
        """Report the progress of a clip that is being rendered.

        Steps that a new attempt repeats are not counted again.
        """
        progress = view.progress
        self._count(clip, progress.step, progress.stage is Stage.MUX)
        self._step_bar.set_description_str(f"{clip}: {progress}")
        if progress.blocked != self._blocked:
            self._blocked = progress.blocked
            self._print(f"waiting: {progress.blocked}" if progress.blocked else "continuing")
        if not self._terminal and time.monotonic() - self._printed > LINE_EVERY_S:
            self._print(
                f"{clip}: {progress}; "
                f"in total {self._done} of {counted(self._clips, 'clip')}, "
                f"{self._steps_done} of {counted(self._steps, 'step')}"
            )

    def _count(self, clip: str, steps: int, after: int) -> None:
        """Count steps that a clip has done, and how many of decoding and storing."""
        before = self._done_of.get(clip, (0, 0))
        now = max(steps, before[0]), max(after, before[1])
        self._done_of[clip] = now
        self._steps_done += now[0] - before[0]
        self._step_bar.update(sum(now) - sum(before))

    def finished(self, row: Row) -> None:
        """Report a clip that is done, failed or cancelled."""
        self._done += 1
        self._count(row.title, row.parameters.steps, AFTER)
        self._clip_bar.update()
        seconds = sum(row.seconds.values())
        result = f"done in {seconds:.1f} s on {row.worker}" if row.status == "done" else row.error
        self._print(f"[{self._done}/{self._clips}] {row.title}: {result}")

    def close(self) -> None:
        self._step_bar.close()
        self._clip_bar.close()

    def _print(self, line: str) -> None:
        self._printed = time.monotonic()
        if self._terminal:
            tqdm.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr, flush=True)


def _bar(
    unit: str, total: int, done: int, position: int, shown: bool, form: str | None = None
) -> "tqdm[NoReturn]":
    return tqdm(
        desc=f"{unit}s" if form is None else unit,
        bar_format=form,
        unit=unit,
        total=total,
        initial=done,
        position=position,
        file=sys.stderr,
        disable=not shown,
        dynamic_ncols=True,
    )


@contextmanager
def open_reporter(clips: int, done: int, steps: int) -> Iterator[Reporter]:
    """Open a reporter on standard error, and close it at the end."""
    reporter = Reporter(clips, done, steps, terminal=sys.stderr.isatty())
    try:
        yield reporter
    finally:
        reporter.close()
