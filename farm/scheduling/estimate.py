"""Estimates of how long work will take, from the times of earlier tasks. Pure."""

from collections.abc import Mapping

from farm.model.plan import Stage, Task
from farm.model.request import RenderRequest

WEIGHT = 0.2  # the weight of the newest observation in the moving average


class Pace:
    """Moving averages of seconds per unit of work, by model, stage and reuse interval."""

    def __init__(self) -> None:
        self._pace: dict[tuple[str, Stage, int], float] = {}

    def observe(self, task: Task, request: RenderRequest, seconds: float) -> None:
        """Record how long a task took."""
        start, stop = task.span
        self._note(task.stage, request, stop - start, seconds)

    def observe_clip(self, request: RenderRequest, seconds: Mapping[str, float]) -> None:
        """Record how long the stages of a whole clip took."""
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
        """The seconds of one worker that a clip still needs; None if a remaining stage is untimed.

        step, frames: the steps that are denoised and the frames that are decoded already.
        """
        amounts = {
            Stage.ENCODE: int(step == 0),
            Stage.DENOISE: request.params.steps - step,
            Stage.DECODE: (request.params.num_frames or 0) - frames,
            Stage.MUX: 1,
        }
        total = 0.0
        for stage, amount in amounts.items():
            if not amount:  # the stage is done, and its time does not matter
                continue
            pace = self._of(request, stage)
            if pace is None:
                return None
            total += pace * _work(stage, request, amount)
        return total

    def _of(self, request: RenderRequest, stage: Stage) -> float | None:
        """The pace of a stage. For MUX, which does not depend on the model, any model's will do."""
        pace = self._pace.get(_key(request, stage))
        if pace is None and stage is Stage.MUX:
            return next((pace for (_, of, _), pace in self._pace.items() if of is stage), None)
        return pace


def _key(request: RenderRequest, stage: Stage) -> tuple[str, Stage, int]:
    """The key of a pace. Steps that reuse features are faster, so each interval has its own."""
    interval = request.params.reuse_interval if stage is Stage.DENOISE else 1
    return request.weights, stage, interval


def _work(stage: Stage, request: RenderRequest, amount: int) -> float:
    """The pixels that a task processes. amount: steps or frames; not used for ENCODE and MUX."""
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
