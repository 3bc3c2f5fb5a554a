"""How long work will take, from how long it took: seconds per step, frame and pixel. Pure."""

from collections.abc import Mapping

from farm.model.plan import Stage, Task
from farm.model.request import RenderRequest

WEIGHT = 0.2  # of the newest observation


class Pace:
    """A moving average for each stage of each model, and for each interval of reuse."""

    def __init__(self) -> None:
        self._pace: dict[tuple[str, Stage, int], float] = {}

    def observe(self, task: Task, request: RenderRequest, seconds: float) -> None:
        """Take note of a task that took so long."""
        start, stop = task.span
        self._note(task.stage, request, stop - start, seconds)

    def observe_clip(self, request: RenderRequest, seconds: Mapping[str, float]) -> None:
        """Take note of a whole clip, by the seconds of its stages."""
        amounts = {Stage.DENOISE: request.params.steps, Stage.DECODE: request.params.num_frames}
        for stage in Stage:
            if seconds.get(stage):
                self._note(stage, request, amounts.get(stage) or 1, seconds[stage])

    def _note(self, stage: Stage, request: RenderRequest, amount: int, seconds: float) -> None:
        pace = seconds / _work(stage, request, amount)
        key = _key(request, stage)
        former = self._pace.get(key, pace)
        self._pace[key] = former + WEIGHT * (pace - former)

    def left(self, request: RenderRequest, step: int = 0, frames: int = 0) -> float | None:
        """Seconds of one worker that a clip still needs; None where a stage before it is untimed.

        step, frames: denoised and decoded already.
        """
        amounts = {
            Stage.ENCODE: int(step == 0),
            Stage.DENOISE: request.params.steps - step,
            Stage.DECODE: (request.params.num_frames or 0) - frames,
            Stage.MUX: 1,
        }
        total = 0.0
        for stage, amount in amounts.items():
            if not amount:  # done: a clip that goes on after a restart is never encoded again
                continue
            pace = self._of(request, stage)
            if pace is None:
                return None
            total += pace * _work(stage, request, amount)
        return total

    def _of(self, request: RenderRequest, stage: Stage) -> float | None:
        """The pace of a stage; a video is written at the same one whichever model has made it."""
        pace = self._pace.get(_key(request, stage))
        if pace is None and stage is Stage.MUX:
            return next((pace for (_, of, _), pace in self._pace.items() if of is stage), None)
        return pace


def _key(request: RenderRequest, stage: Stage) -> tuple[str, Stage, int]:
    """What has a pace of its own: steps that reuse features are faster than whole ones."""
    interval = request.params.reuse_interval if stage is Stage.DENOISE else 1
    return request.weights, stage, interval


def _work(stage: Stage, request: RenderRequest, amount: int) -> float:
    """Pixels that a task goes over. amount: steps or frames; of no matter to encode and mux."""
    params = request.params
    pixels = (params.width or 0) * (params.height or 0)
    frames = params.num_frames or 0
    return (
        pixels
        * {
            Stage.ENCODE: 1,
            Stage.DENOISE: amount * frames,
            Stage.DECODE: amount,
            Stage.MUX: frames,
        }[stage]
    )
