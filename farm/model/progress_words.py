"""A job's progress in words, the same on terminals, in notebooks and in logs. Pure."""

from typing import TYPE_CHECKING

from farm.model.plan import Stage
from farm.quantities import counted, lasting

if TYPE_CHECKING:
    from farm.model.job import Progress

STAGES = {
    Stage.ENCODE: "encoding",
    Stage.DENOISE: "denoising",
    Stage.DECODE: "decoding",
    Stage.MUX: "storing",
}


def in_words(progress: "Progress") -> str:
    """`denoising, step 12 of 25, about 8 s left`."""
    words = [_doing(progress)]
    if progress.blocked:
        words.append(progress.blocked)
    if progress.eta_s is not None and progress.fraction < 1:
        words.append(f"about {lasting(progress.eta_s)} left")
    return ", ".join(words)


def _doing(progress: "Progress") -> str:
    if progress.queue_position is not None:
        ahead = progress.queue_position
        return f"waiting, {counted(ahead, 'job')} before it" if ahead else "waiting, next"
    if progress.stage is None:
        return "done" if progress.fraction >= 1 else "waiting"
    text = STAGES[progress.stage]
    if progress.stage is Stage.DENOISE:
        return f"{text}, step {progress.step} of {progress.steps}"
    if progress.stage is Stage.DECODE and progress.chunks > 1:
        return f"{text}, chunk {progress.chunk} of {progress.chunks}"
    return text
