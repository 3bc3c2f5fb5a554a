"""The store's objects of clips that are being rendered: checkpoints, artifacts and the result."""

import logging
from functools import partial

from farm.background import Background
from farm.clock import Clock
from farm.coordinator.clips import Clip
from farm.errors import StoreError
from farm.model.job import ClipResult
from farm.model.task_order import Made
from farm.records.cleanup import clear_clip, earlier_attempts
from farm.records.commits import commit
from farm.store import Store
from farm.store.keys import checkpoints_prefix, step_of
from farm.store.retry import retry_until_stored

log = logging.getLogger("farm")


class ClipStore:
    """Reads, commits and clears the objects of clips under way."""

    def __init__(self, store: Store, background: Background, fence: int, clock: Clock) -> None:
        """fence: this coordinator's fencing token, which names its attempts and its results."""
        self._store, self._background = store, background
        self._fence, self._clock = fence, clock

    def attempt(self, number: int) -> str:
        """The name of an attempt at a task, unique among those of all coordinators."""
        return f"{self._fence}-{number}"

    async def last_checkpoint(self, clip: Clip) -> int:
        """The step of a clip's last checkpoint; 0 if there is none, or none can be listed."""
        try:
            keys = await self._background.call(
                lambda: list(self._store.list(checkpoints_prefix(clip.id)))
            )
        except StoreError as error:
            log.warning("%s: starts over, as no checkpoints can be listed: %s", clip.label, error)
            return 0
        steps = [found[1] for key in keys if (found := step_of(key))]
        return max((step for step in steps if step <= clip.request.params.steps), default=0)

    async def commit(self, clip: Clip, made: Made) -> ClipResult:
        """Write the result that names a clip's artifacts: from then on the clip is finished.

        Retried until the store answers, even if the clip is cancelled meanwhile: a write that was
        not answered may have succeeded.
        """
        result = clip.result(made, self._fence, self._clock.wall())
        return await retry_until_stored(
            partial(self._background.call, commit, self._store, result, clip.force),
            f"{clip.label}: its result cannot be committed yet",
        )

    async def clear(self, clip: Clip, result: ClipResult | None = None) -> None:
        """Delete what an ended clip leaves in the store, except what its result names."""
        attempts, kept = list(clip.muxes), set[str]()
        if result is not None:
            kept = result.artifact_keys()
            if clip.recovered and not clip.force:  # a forced clip's former result is still a job's
                attempts += await self._earlier_attempts(clip)
        steps = clip.request.params.steps
        await self._background.call(clear_clip, self._store, clip.id, steps, attempts, kept)

    async def _earlier_attempts(self, clip: Clip) -> list[str]:
        try:
            return await self._background.call(earlier_attempts, self._store, clip.id, self._fence)
        except StoreError as error:
            log.warning("%s: the artifacts of earlier attempts stay: %s", clip.label, error)
            return []
