"""Checks submissions, and makes jobs of them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import prod

from pydantic import ValidationError

from farm.background import Background
from farm.caller import current_caller
from farm.clock import Clock
from farm.coordinator.webhooks import check_webhook
from farm.errors import RequestError, SizeError
from farm.model.job import JobRecord, State, Submission
from farm.model.request import RenderRequest, digest_of
from farm.records.commits import Claim, claim, delete_old_claim
from farm.records.job_book import JobBook
from farm.settings import Settings
from farm.store import Store
from farm.store.keys import idempotency_key
from farm.workers.runtime import ModelFinder
from svd_engine.picture_files import check_picture

KEY_S = 24 * 3600.0  # how long an idempotency key stands for its job
REPEAT_S = 600.0  # how long equal requests without a key are the same job
MAX_CLIP_PIXELS = 2**29  # of all frames, 1.6 GB of uint8: a short request could ask for any size


class Intake:
    """Checks pictures and submissions, and makes jobs of them."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        background: Background,
        models: ModelFinder,
        book: JobBook,
        clock: Clock,
    ) -> None:
        self._settings, self._store, self._background = settings, store, background
        self._models, self._book, self._clock = models, book, clock
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}  # with their users, by claim

    async def digest_of_picture(self, picture: bytes) -> str:
        """The digest of a picture file. Raises RequestError if it is no picture, or too large."""
        try:
            await self._background.call(check_picture, picture, self._settings.max_pixels)
        except ValueError as error:
            raise RequestError(str(error)) from error
        return digest_of(picture)

    async def job_of(self, submission: Submission, picture: str) -> JobRecord:
        """The job that is asked for. Raises RequestError if it can never be rendered.

        picture: the digest of a picture that was checked.
        """
        check_webhook(submission.webhook_url, self._settings)
        try:
            facts = await self._models.facts(submission.model, submission.tenant)
            request = RenderRequest(
                picture=picture,
                weights=facts.digest,
                dtype=submission.model.dtype,
                params=submission.params.resolve(facts.defaults),
                num_videos=submission.num_videos,
            )
            _check_clip_size(request)
        except ValidationError as error:
            fault = error.errors()[0]
            raise RequestError(f"{fault['msg']}, got {fault['input']!r}") from error
        except ValueError as error:
            raise RequestError(str(error)) from error
        own = submission.model_dump(exclude={"params", "num_videos", "model", "idempotency_key"})
        caller = current_caller()
        return JobRecord(
            **own,
            request_id=caller and caller.request_id,
            traceparent=(caller and caller.traceparent) or None,
            model=submission.model,
            request=request,
            created_at=self._clock.wall(),
            created_on=self._clock.now(),
        )

    async def once(self, job: JobRecord, key: str) -> JobRecord:
        """The job, under the id that its idempotency key stands for already, if there is one.

        An empty key stands for the request itself. If the job of an equal request has failed or was
        cancelled, this is a new one.
        """
        mine = Claim(job=job.id, at=self._clock.now())
        # These differ in equal requests.
        own = {"id", "created_at", "created_on", "picture_name", "request_id", "traceparent"}
        text = f"key {key}" if key else job.model_dump_json(exclude=own)
        name = idempotency_key(job.tenant, text)
        lasts = KEY_S if key else REPEAT_S
        async with self._claiming(name):
            holder = await self._claim(name, mine, lasts, key)
        return job.model_copy(update={"id": holder.job, "claim": name})

    async def _claim(self, name: str, mine: Claim, lasts: float, key: str) -> Claim:
        holder = await self._background.call(claim, self._store, name, mine, lasts)
        if holder.job != mine.job and not key:
            former = await self._book.read(holder.job)
            if former is not None and former.state in (State.FAILED, State.CANCELLED):
                holder = await self._background.call(claim, self._store, name, mine, 0.0)
        return holder

    async def forget_claim(self, name: str) -> bool:
        """Delete a claim that is no longer in force; returns whether it is gone."""
        async with self._claiming(name):
            before = self._clock.now() - KEY_S
            return await self._background.call(delete_old_claim, self._store, name, before)

    @asynccontextmanager
    async def _claiming(self, name: str) -> AsyncIterator[None]:
        """Let one call at a time read and write a claim."""
        lock, users = self._locks.get(name, (asyncio.Lock(), 0))
        self._locks[name] = lock, users + 1
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks.pop(name)
            if users > 1:
                self._locks[name] = lock, users - 1


def _check_clip_size(request: RenderRequest) -> None:
    params = request.params
    sides = params.width or 0, params.height or 0, params.frames
    if prod(sides) > MAX_CLIP_PIXELS:
        raise SizeError(
            f"width x height x num_frames: {' x '.join(map(str, sides))} pixels in a clip, "
            f"over {MAX_CLIP_PIXELS}"
        )
